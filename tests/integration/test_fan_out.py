"""``publish``: one round trip, and the messages that Celery would send."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, group
from redis.exceptions import ReadOnlyError

from ingest.publisher import EventQueue
from tasks import deliver, dispatch, process
from tasks.celery import EventTask
from tasks.claims import Claim
from tasks.claims.intake import read_event
from tasks.events import MetadataRules, load_envelope
from tasks.events.metadata import SHIPPED
from tasks.settings import ReplayPolicy
from tasks.worker.publish import message_options
from tasks.worker.transport import Transport
from tests.support.envelopes import SINKS, envelope
from tests.support.nodes import RedisContainer


@pytest.fixture
def app(redis: RedisContainer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """An app with the tasks of the project, on an empty Redis."""
    app = Celery(
        broker=redis.url,
        # Named, as kombu keeps to the first ``redis://`` of a process: another test's.
        broker_transport=f"{Transport.__module__}:{Transport.__qualname__}",
        backend=f"tasks.worker.chord_backend:SettlingBackend+{redis.url}",
        task_cls=EventTask,
        set_as_current=False,
    )
    names = [*(f"deliver.{sink}" for sink in SINKS), "process_event"]
    app.conf.task_routes = {name: {"queue": name} for name in names}
    app.conf.task_ignore_result = True  # as in celeryconfig.py
    assert deliver.TASKS
    assert process.process_event  # shared tasks: known to every app
    monkeypatch.setattr(dispatch, "app", app)
    yield app
    app.close()


@pytest.fixture
def claim() -> Claim:
    """A claim of an event for all sinks."""
    event = envelope()
    rules = MetadataRules.from_file(SHIPPED, "prod")
    return read_event(rules, event["id"], event, event["time"], holder="a-worker")[0]


def published(redis: RedisContainer, queue: str) -> list[Any]:
    """The messages in a queue, oldest first, without what differs in every two of them."""
    messages = [json.loads(text) for text in reversed(redis.client.lrange(queue, 0, -1))]
    for message in messages:
        assert message["properties"].pop("delivery_tag")
        assert message["headers"].pop("published_at")
        message["headers"]["group"] = bool(message["headers"]["group"])
        message["body"] = json.loads(base64.b64decode(message["body"]))
        for unused in ("reply_to", "argsrepr", "kwargsrepr"):
            message["properties"].pop(unused, None)
    return messages


def test_a_fan_out_takes_one_round_trip(app: Celery, claim: Claim, redis: RedisContainer) -> None:
    dispatch.fan_out(claim)  # now it is connected
    before = redis.client.info("stats")["total_reads_processed"]
    dispatch.fan_out(claim)
    reads = redis.client.info("stats")["total_reads_processed"] - before - 1  # of INFO itself
    assert [redis.client.llen(f"deliver.{sink}") for sink in SINKS] == [2] * len(SINKS)
    assert reads < len(SINKS), "what is long may come in two pieces"


def test_a_redis_that_takes_no_writes_raises_its_own_error(
    app: Celery, claim: Claim, redis: RedisContainer
) -> None:
    redis.client.replicaof("127.0.0.1", 1)  # where nothing listens
    try:
        with pytest.raises(ReadOnlyError, match="read only replica"):
            dispatch.fan_out(claim)
    finally:
        redis.client.replicaof("no", "one")
    dispatch.fan_out(claim)
    assert [redis.client.llen(f"deliver.{sink}") for sink in SINKS] == [1] * len(SINKS)


@pytest.mark.parametrize("within_a_task", [False, True])
def test_a_delivery_is_the_message_that_celery_sends(
    app: Celery,
    claim: Claim,
    redis: RedisContainer,
    monkeypatch: pytest.MonkeyPatch,
    *,
    within_a_task: bool,
) -> None:
    if within_a_task:
        task = app.tasks["process_event"]
        task.push_request(id="this", root_id="first", called_directly=False)
        monkeypatch.setattr(Celery, "current_worker_task", task)
    try:
        dispatch.fan_out(claim)
        payload = dispatch.delivery_payload(claim)
        header = [
            app.signature(
                f"deliver.{sink}",
                args=(claim.id, payload),
                task_id=f"{claim.id}.{sink}.{claim.generation}",
            )
            for sink in claim.to_deliver
        ]
        settle = dispatch.settle_signature(claim, len(header))
        group(header, app=app).apply_async(chord=settle)
    finally:
        if within_a_task:
            task.pop_request()
    for sink in SINKS:
        sent, expected = published(redis, f"deliver.{sink}")
        assert sent == expected
        assert sent["headers"]["group"]
        assert sent["headers"]["timelimit"][0]
        assert sent["headers"]["parent_id"] == ("this" if within_a_task else None)


def test_an_event_is_the_message_that_celery_sends(app: Celery, redis: RedisContainer) -> None:
    event = load_envelope(envelope())
    queue = EventQueue(app, max_backlog=10, threads=1, replay_policy=ReplayPolicy.ALL)
    queue.put([event], "2026-11-20T09:30:02.000Z")
    (sent,) = published(redis, "process_event")
    arguments = (event.replay_key, event.to_json(), "2026-11-20T09:30:02.000Z")
    options = {**message_options(event.replay_key), "task_id": sent["headers"]["id"]}
    app.send_task("process_event", arguments, ignore_result=True, **options)
    _, expected = published(redis, "process_event")
    assert sent == expected
