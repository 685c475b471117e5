"""What celeryconfig.py sets is what Celery uses, and what the documentation promises."""

from types import ModuleType

import pytest
from celery.app.defaults import DEFAULTS
from kombu.utils.imports import symbol_by_name

import celeryconfig
from tasks.celery import app
from tasks.settings import settings
from tasks.sinks import SINKS
from tasks.worker.chord_backend import SettlingBackend
from tasks.worker.consumer import SendEventsTogether
from tasks.worker.pool import TaskPool

#: The table of docs/interface.md, "Tasks and queues".
QUEUES = {
    "process_event": "events",
    "settle": "settle",
    "sweep": "sweep",
    "drain": "sweep",
    **{f"deliver.{sink}": f"deliver.{sink}" for sink in SINKS},
}


def test_celery_knows_every_setting():
    """It ignores a name that it does not know."""
    names = {
        name
        for name, value in vars(celeryconfig).items()
        if name.islower() and not name.startswith("_") and not isinstance(value, ModuleType)
    } - {"settings"}
    assert len(names) > 20
    assert names - DEFAULTS.keys() == set()
    for name in names:
        assert app.conf[name] == getattr(celeryconfig, name)


@pytest.mark.parametrize("name", QUEUES)
def test_a_message_is_acknowledged_when_its_task_is_done(name):
    app.loader.import_default_modules()
    task = app.tasks[name]
    assert task.acks_late
    assert task.reject_on_worker_lost
    assert not app.conf.worker_cancel_long_running_tasks_on_connection_loss


def test_a_worker_prefetches_one_message_per_process():
    assert app.conf.worker_prefetch_multiplier == 1
    assert app.conf.worker_eta_task_limit == 10_000


@pytest.mark.parametrize(("task", "queue"), QUEUES.items())
def test_a_task_is_sent_to_its_queue(task, queue):
    route = app.amqp.router.route({}, task)
    assert (route["queue"].name, route["queue"].routing_key) == (queue, queue)


def test_a_worker_consumes_from_every_queue_and_creates_none():
    assert set(app.amqp.queues.consume_from) == set(QUEUES.values())
    assert not app.conf.task_create_missing_queues
    with pytest.raises(KeyError):
        app.amqp.queues["deliver.fax"]


def test_results_are_ignored_and_errors_are_kept():
    assert isinstance(app.backend, SettlingBackend)
    assert app.conf.task_ignore_result
    assert app.conf.task_store_errors_even_if_ignored
    assert app.conf.result_chord_expires > settings().claim_lease


def test_lost_messages_are_redelivered_in_the_documented_time():
    options = app.conf.broker_transport_options
    assert options["visibility_timeout"] == settings().visibility_timeout
    seconds = options["unacked_restore_interval"] * options["unacked_restore_throttle"]
    assert seconds == 10, "R of docs/reliability.md"


def test_a_worker_uses_this_pool_and_this_step_of_its_consumer():
    assert symbol_by_name(app.conf.worker_pool) is TaskPool
    assert SendEventsTogether in app.steps["consumer"]


def test_beat_sends_sweeps_and_drains_that_do_not_pile_up():
    interval = settings().sweep_interval
    sent = {
        (entry["task"], *entry.get("args", ())) for entry in celeryconfig.beat_schedule.values()
    }
    assert sent == {("sweep",), *(("drain", sink) for sink in SINKS)}
    for entry in celeryconfig.beat_schedule.values():
        assert (entry["schedule"], entry["options"]) == (interval, {"expires": interval})


def test_task_events_are_sent_for_flower():
    assert app.conf.worker_send_task_events
