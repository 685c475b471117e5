"""A fan-out is one round trip to Redis, however many its sinks are."""

from collections.abc import Iterator

import pytest
from celery import Celery

from tasks import deliver, dispatch, transport
from tasks.celery import EventTask
from tasks.process import read_event
from tasks.registry import SHIPPED, MetadataRules

from .envelopes import SINKS, envelope
from .nodes import RedisContainer, running


@pytest.fixture(scope="module")
def broker(engines: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisContainer]:
    """Redis."""
    with running(RedisContainer(tmp_path_factory.mktemp("broker"))) as redis:
        yield redis


def test_all_deliveries_of_an_event_leave_together(
    broker: RedisContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport.install()
    app = Celery(
        broker=broker.url,
        backend=f"tasks.chord:SettlingBackend+{broker.url}",
        task_cls=EventTask,
        set_as_current=False,
    )
    app.conf.task_routes = {f"deliver.{sink}": {"queue": sink} for sink in SINKS}
    app.conf.task_ignore_result = True  # as in celeryconfig.py
    assert deliver.TASKS  # are known to every app
    monkeypatch.setattr(dispatch, "app", app)
    event = envelope()
    rules = MetadataRules.from_file(SHIPPED, "prod")
    claim, typed = read_event(rules, event["id"], event, event["time"], holder="somebody")
    dispatch.fan_out(claim, typed)  # now it is connected

    redis = broker.client
    before = redis.info("stats")["total_reads_processed"]
    dispatch.fan_out(claim, typed)
    reads = redis.info("stats")["total_reads_processed"] - before - 1  # the question itself

    assert [redis.llen(sink) for sink in SINKS] == [2] * len(SINKS)
    assert reads < len(SINKS), "what is long may come in two pieces"
    app.close()
