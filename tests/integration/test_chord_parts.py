"""The parts of a chord, counted in a real Redis: the last one publishes ``settle``."""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, states
from celery.app.task import Context
from celery.canvas import Signature
from celery.exceptions import TaskRevokedError

from tasks.claims import Outcome, Report
from tasks.errors import DeliveryError, ParkedError
from tasks.worker.chord_backend import SettlingBackend
from tests.support.nodes import RedisContainer

AT = "2026-11-20T09:30:02.000Z"


class Chord:
    """A chord of a few deliveries, whose ends are reported to the backend one by one."""

    def __init__(self, backend: SettlingBackend, redis: RedisContainer, size: int) -> None:
        self.backend = backend
        self.queue = redis.client
        self.group = str(uuid4())
        self.body: Signature[Any] = backend.app.signature(
            "settle",
            args=("key",),
            kwargs={"generation": 1},
            task_id="key.settle.1",
            queue="settle",
            headers={"chord_size": size},
        )

    def ends(self, sink: str, state: str, result: Any) -> None:
        """Report how a delivery ended."""
        self.backend.on_chord_part_return(self.request(sink), state, result)

    def request(self, sink: str) -> Context:
        """Make the request of a delivery task."""
        return Context(
            id=f"key.{sink}.1",
            task=f"deliver.{sink}",
            group=self.group,
            chord=dict(self.body),
            retries=0,
        )

    def delivers(self, sink: str) -> None:
        """A delivery succeeded."""
        sent = Report(sink=sink, outcome=Outcome.DELIVERED, attempts=1, at=AT)
        self.ends(sink, states.SUCCESS, sent.to_json())

    def fails(self, sink: str) -> None:
        """A delivery failed."""
        self.ends(sink, states.FAILURE, DeliveryError("400 Bad Request"))

    def settles(self) -> list[Mapping[str, str]]:
        """The outcomes in each ``settle`` that was published, by sink."""
        messages = [json.loads(text) for text in reversed(self.queue.lrange("settle", 0, -1))]
        assert {message["headers"]["id"] for message in messages} <= {"key.settle.1"}
        calls = [json.loads(base64.b64decode(message["body"]))[1] for message in messages]
        assert all(call["generation"] == 1 for call in calls)
        return [{part["sink"]: part["outcome"] for part in call["reports"]} for call in calls]


@pytest.fixture
def chord(redis: RedisContainer) -> Iterator[Chord]:
    """A chord of two deliveries."""
    app = Celery("tests", broker=redis.url, set_as_current=False)
    backend = SettlingBackend(app=app, url=redis.url)
    yield Chord(backend, redis, size=2)
    backend.client.close()
    app.close()


def test_the_last_part_publishes_settle(chord: Chord) -> None:
    chord.delivers("crm")
    assert chord.settles() == []
    chord.delivers("analytics")
    assert chord.settles() == [{"crm": "delivered", "analytics": "delivered"}]


def test_a_failed_and_a_revoked_part_count(chord: Chord) -> None:
    chord.fails("crm")
    chord.ends("analytics", states.REVOKED, TaskRevokedError("revoked"))
    assert chord.settles() == [{"crm": "failed", "analytics": "revoked"}]


def test_a_part_that_ends_twice_counts_once(chord: Chord) -> None:
    chord.delivers("crm")
    chord.delivers("crm")
    assert chord.settles() == []


def test_a_success_counts_before_a_later_failure(chord: Chord) -> None:
    chord.delivers("crm")
    chord.fails("crm")
    chord.delivers("analytics")
    assert chord.settles() == [{"crm": "delivered", "analytics": "delivered"}]


def test_a_later_success_replaces_a_failure(chord: Chord) -> None:
    chord.fails("crm")
    chord.delivers("crm")
    chord.delivers("analytics")
    assert chord.settles() == [{"crm": "delivered", "analytics": "delivered"}]


def test_of_two_failures_the_first_counts(chord: Chord) -> None:
    chord.fails("crm")
    chord.ends("crm", states.REVOKED, TaskRevokedError("revoked"))
    chord.delivers("analytics")
    assert chord.settles() == [{"crm": "failed", "analytics": "delivered"}]


def test_a_redelivered_last_part_publishes_settle_again(chord: Chord) -> None:
    chord.delivers("crm")
    chord.fails("analytics")
    chord.delivers("analytics")
    assert chord.settles() == [
        {"crm": "delivered", "analytics": "failed"},
        {"crm": "delivered", "analytics": "delivered"},
    ]


def test_the_parts_of_a_chord_expire(chord: Chord) -> None:
    chord.delivers("crm")
    [waiting] = chord.queue.scan_iter("*.parts")
    assert chord.queue.ttl(waiting) > 300
    chord.delivers("analytics")
    assert 0 < chord.queue.ttl(waiting) <= 300


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by Celery
@pytest.mark.parametrize(
    ("raised", "outcome", "kept"),
    [(ParkedError("parked"), "parked", False), (DeliveryError("400 Bad Request"), "failed", True)],
    ids=["parked", "failed"],
)
def test_a_parked_delivery_stores_no_result(
    chord: Chord, raised: DeliveryError, outcome: str, kept: bool
) -> None:
    chord.delivers("analytics")
    request = chord.request("crm")
    chord.backend.mark_as_failure(request.id, raised, "traceback", request=request)
    assert chord.settles() == [{"crm": outcome, "analytics": "delivered"}]
    results = [name for name in chord.queue.scan_iter("*") if "task-meta" in name]
    assert len(results) == int(kept)
