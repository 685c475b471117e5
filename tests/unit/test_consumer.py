"""Task events are sent a few times a second, and none is left behind."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.celery import app
from tasks.worker import consumer
from tasks.worker.consumer import SEND_INTERVAL, SendEventsTogether


class Hub:
    """Remembers what it was asked to call later."""

    def __init__(self) -> None:
        self.later: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

    def call_later(self, delay: float, callback: Callable[..., None], *args: Any) -> None:
        self.later.append((delay, callback, args))


class Dispatcher:
    """Counts how often its events were sent."""

    on_send_buffered: Callable[[], None]
    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as its only entry."""
    moment = [100.0]
    monkeypatch.setattr(consumer.time, "monotonic", lambda: moment[0])
    return moment


@pytest.fixture
def worker(clock: list[float]) -> SimpleNamespace:
    """What the step sees of a worker's consumer that has just connected."""
    return SimpleNamespace(hub=Hub(), event_dispatcher=Dispatcher(), steps=[])


@pytest.fixture
def step(worker: SimpleNamespace) -> SendEventsTogether:
    step = SendEventsTogether(worker)
    step.start(worker)
    return step


def test_the_app_has_the_step() -> None:
    assert SendEventsTogether in app.steps["consumer"]


def test_many_events_are_sent_together(step: SendEventsTogether, worker: SimpleNamespace) -> None:
    for _ in range(10):
        worker.event_dispatcher.on_send_buffered()
    [(delay, callback, args)] = worker.hub.later
    assert (delay, worker.event_dispatcher.flushes) == (SEND_INTERVAL, 0)
    callback(*args)
    assert worker.event_dispatcher.flushes == 1


def test_events_after_an_interval_are_sent_too(
    step: SendEventsTogether, worker: SimpleNamespace, clock: list[float]
) -> None:
    worker.event_dispatcher.on_send_buffered()
    clock[0] += SEND_INTERVAL
    worker.event_dispatcher.on_send_buffered()
    assert len(worker.hub.later) == 2


def test_a_new_connection_sends_by_its_own_dispatcher(
    step: SendEventsTogether, worker: SimpleNamespace, clock: list[float]
) -> None:
    worker.event_dispatcher.on_send_buffered()
    worker.hub.later.clear()  # as Celery does where the connection is lost
    worker.event_dispatcher = Dispatcher()
    step.start(worker)
    clock[0] += SEND_INTERVAL
    worker.event_dispatcher.on_send_buffered()
    [(_, callback, args)] = worker.hub.later
    callback(*args)
    assert worker.event_dispatcher.flushes == 1


def test_without_a_loop_nothing_waits(worker: SimpleNamespace) -> None:
    worker.hub = None
    SendEventsTogether(worker).start(worker)
    assert not hasattr(worker.event_dispatcher, "on_send_buffered")


def test_a_worker_without_events_starts_and_stops(worker: SimpleNamespace) -> None:
    worker.event_dispatcher = None
    step = SendEventsTogether(worker)
    step.start(worker)
    step.shutdown(worker)


def test_a_shutdown_sends_the_rest(step: SendEventsTogether, worker: SimpleNamespace) -> None:
    worker.event_dispatcher.on_send_buffered()
    step.shutdown(worker)
    assert worker.event_dispatcher.flushes == 1


def test_the_rest_is_sent_before_the_connection_closes() -> None:
    from celery.worker.consumer import Consumer  # noqa: PLC0415 - as a worker does

    blueprint = Consumer.Blueprint(steps=app.steps["consumer"])
    order = [step.name for step in blueprint._finalize_steps(blueprint.claim_steps())]
    # Steps shut down in reverse.
    assert order.index(SendEventsTogether.name) > order.index(
        "celery.worker.consumer.events.Events"
    )
