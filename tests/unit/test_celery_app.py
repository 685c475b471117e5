"""The app and its tasks, with a broker in this process's memory."""

import time

import pytest
from celery import Celery
from celery.app.trace import build_tracer
from celery.exceptions import Retry

from tasks.celery import EventTask, app
from tasks.deliver import TASKS
from tasks.errors import DeliveryError
from tasks.sinks import SINKS
from tasks.worker.publish import message_options

PRIVATE = {"event": {"accountId": "Jane-Doe-4711"}}


@pytest.fixture
def in_memory():
    in_memory = Celery("test", broker="memory://", task_cls=EventTask, set_as_current=False)
    in_memory.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=False)
    return in_memory


def headers_of(in_memory, **options):
    """The headers of a published message, from which Flower, logs and task events are made."""

    @in_memory.task(name="deliver.test", shared=False)
    def deliver(*_, **__):
        pass

    with in_memory.connection_for_write() as connection:
        deliver.apply_async(connection=connection, **options)
        queue = connection.SimpleQueue("celery")
        message = queue.get(timeout=1)
        message.ack()
        queue.close()
        return message.headers


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"args": ("id-1", PRIVATE)}, "('id-1',)"),
        ({"args": ("id-1",), "kwargs": PRIVATE}, "('id-1',)"),
        ({"kwargs": PRIVATE}, "()"),
        ({}, "()"),
        ({"args": ("id-1", PRIVATE), "argsrepr": "Jane-Doe-4711"}, "('id-1',)"),
    ],
    ids=["arguments", "keywords", "no-key", "nothing", "given-argsrepr"],
)
def test_a_message_shows_the_key_alone(in_memory, options, shown):
    headers = headers_of(in_memory, **options)
    assert headers["argsrepr"] == shown
    assert headers["kwargsrepr"] == "{}"
    assert "Jane" not in str(headers)


def test_message_options_have_the_key_schema_and_time():
    options = message_options("id-1")
    assert (options["argsrepr"], options["kwargsrepr"]) == ("('id-1',)", "{}")
    assert options["headers"]["message_schema"] == 1
    assert abs(options["headers"]["published_at"] - time.time()) < 60


@pytest.mark.parametrize(
    ("error", "frames"),
    [
        (DeliveryError("404 Not Found"), False),
        (Retry("503", exc=DeliveryError("503")), False),
        (ZeroDivisionError(), True),  # for the log
    ],
)
def test_the_frames_of_an_expected_error_are_dropped(in_memory, caplog, error, frames):
    @in_memory.task(name="deliver.test", shared=False, throws=(DeliveryError,))
    def deliver():
        raise error

    result = build_tracer("deliver.test", deliver, app=in_memory)("id", (), {}, {}).retval
    assert bool(result.tb) == frames
    assert "raise error" in result.traceback
    assert bool([record for record in caplog.records if record.exc_info]) == frames


def test_every_task_of_the_interface_has_its_queue():
    deliveries = [f"deliver.{sink}" for sink in SINKS]
    app.loader.import_default_modules()
    assert {"process_event", "settle", "sweep", *deliveries} <= set(app.tasks)
    assert {queue.name for queue in app.conf.task_queues} == {
        *("events", "settle", "sweep"),
        *deliveries,
    }
    routes = {name: route["queue"] for name, route in app.conf.task_routes.items()}
    assert routes == {name: name for name in (*deliveries, "settle", "sweep")} | {
        "process_event": "events",
        "drain": "sweep",
    }


@pytest.mark.parametrize("name", SINKS)
def test_a_delivery_task_follows_its_sinks_policy(name):
    task, policy = TASKS[name], SINKS[name].policy
    assert task.name == f"deliver.{name}"
    assert task.max_retries == policy.max_attempts - 1
    assert policy.attempt_timeout < task.soft_time_limit < task.time_limit


def test_messages_are_acknowledged_late():
    assert app.conf.task_acks_late
    assert app.conf.task_reject_on_worker_lost
    longest = max(sink.policy.backoff_cap for sink in SINKS.values())
    assert app.conf.broker_transport_options["visibility_timeout"] > longest
