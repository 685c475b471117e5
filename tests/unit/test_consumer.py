"""What became of tasks is told a few times a second, and all of it."""

from types import SimpleNamespace

import pytest

from tasks.worker import consumer
from tasks.worker.consumer import REPORT_EVERY, Consumer


class Hub:
    """Remembers what it was asked to do later."""

    def __init__(self) -> None:
        self.later: list[tuple[float, object]] = []

    def call_later(self, delay: float, callback: object) -> None:
        self.later.append((delay, callback))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as its only entry."""
    moment = [100.0]
    monkeypatch.setattr(consumer.time, "monotonic", lambda: moment[0])
    return moment


@pytest.fixture
def worker(clock: list[float]) -> Consumer:
    """A consumer that was never connected."""
    made = Consumer.__new__(Consumer)
    made.hub = Hub()
    made._flush_events = "flush"
    return made


def test_many_events_at_once_are_one_report(worker: Consumer) -> None:
    for _ in range(10):
        worker.on_send_event_buffered()
    assert worker.hub.later == [(REPORT_EVERY, worker._flush_events)]


def test_events_after_a_report_are_another(worker: Consumer, clock: list[float]) -> None:
    worker.on_send_event_buffered()
    clock[0] += REPORT_EVERY
    worker.on_send_event_buffered()
    assert len(worker.hub.later) == 2


def test_without_a_loop_nothing_waits(worker: Consumer) -> None:
    worker.hub = None
    worker.on_send_event_buffered()
    assert worker._reported == 0.0


def test_the_rest_is_told_before_the_connection_is_closed(worker: Consumer) -> None:
    done: list[str] = []
    worker._flush_events = lambda: done.append("told")
    worker.perform_pending_operations = lambda: None
    worker.blueprint = SimpleNamespace(shutdown=lambda _: done.append("closed"))
    worker.shutdown()
    assert done == ["told", "closed"]
