"""From outcomes to the final status: every mix, retries, and tasks that are called by hand."""

import re
from datetime import timedelta
from email.utils import format_datetime
from itertools import combinations_with_replacement

import pytest
from celery import Celery
from pytest_celery import CeleryTestSetup

from embedded.stubs.sinks import SampleSinks
from tasks.claims import Claim
from tasks.clock import from_rfc3339, now
from tasks.sinks import SINKS as REGISTRY
from tests.support.envelopes import SINKS, Envelope, assert_chain_holds, envelope
from tests.support.system import IngestContainer, System, TaskEvents
from tests.support.waiting import eventually

ENDS = {"delivered": "succeeded", "failed": "failed", "revoked": "revoked"}

MIXES = list(combinations_with_replacement(ENDS, len(SINKS)))


def revoke(app: Celery, task_id: str, **options: object) -> None:
    """Revoke a task, and return once the worker knows."""
    assert app.control.revoke(task_id, reply=True, limit=1, timeout=10, **options)


def call(app: Celery, name: str, key: str, *, attempt: str = "by-hand") -> str:
    """Call a task with the dedup key alone, as Flower's ``async-apply`` does."""
    task_id = f"{key}.{name}.{attempt}"
    app.send_task(name, [key], task_id=task_id)
    return task_id


def sweep(setup: CeleryTestSetup, key: str) -> str:
    """Call the sweep of one event, which sends no task events; return its line of the log."""
    task_id = call(setup.app, "sweep", key)
    setup.worker.wait_for_log(f"Task sweep[{task_id}] ")
    ended = re.compile(rf"Task sweep\[{re.escape(task_id)}\] (succeeded|raised).*")
    return eventually(lambda: ended.search(setup.worker.logs()))[0]


def refused_by_crm(system: System, sinks: SampleSinks) -> tuple[Envelope, Claim]:
    """Make an event that every sink has but the CRM, which accepts everything from now on."""
    event = envelope()
    sinks.behave("crm", "status", status=400)
    claim = system.settle(event)
    sinks.behave("crm")
    assert claim.status == "partial_failure"
    return event, claim


class HttpDate(int):
    """So many seconds from now, written as the date that this will be."""

    def __init__(self, seconds: int) -> None:
        self.date = (now() + timedelta(seconds=seconds)).replace(microsecond=0)

    def __str__(self) -> str:
        return format_datetime(self.date, usegmt=True)


@pytest.mark.parametrize("mix", MIXES, ids=["-".join(mix) for mix in MIXES])
def test_every_mix_of_outcomes_settles_once(
    system: System,
    sinks: SampleSinks,
    app: Celery,
    task_events: TaskEvents,
    mix: tuple[str, ...],
) -> None:
    event = envelope()
    outcomes = dict(zip(SINKS, mix, strict=True))
    for sink, outcome in outcomes.items():
        if outcome == "failed":
            sinks.behave(sink, "status", status=400)
        if outcome == "revoked":
            revoke(app, f"{event['id']}.{sink}.1")

    claim = system.settle(event)

    delivered = mix.count("delivered")
    status = {0: "failed", len(SINKS): "completed"}.get(delivered, "partial_failure")
    attempts = {"delivered": 1, "failed": 1, "revoked": 0}
    errors = {"failed": "400 Bad Request", "revoked": "revoked by an operator"}
    assert claim.status == status
    assert {s: d.outcome for s, d in claim.deliveries.items()} == outcomes
    [record] = claim.audit
    assert (record["status"], record["downstreamResults"]) == (
        status,
        [
            {
                "service": sink,
                "success": outcome == "delivered",
                "attempts": attempts[outcome],
                **({"error": errors[outcome]} if outcome in errors else {}),
            }
            for sink, outcome in sorted(outcomes.items())
        ],
    )
    assert_chain_holds(claim.audit)
    assert claim.id not in system.due()
    for sink, outcome in outcomes.items():
        [ended] = task_events.wait_for(f"{claim.id}.{sink}.1")
        assert ended["type"] == f"task-{ENDS[outcome]}"
    task_events.wait_for(f"{claim.id}.settle.1", "succeeded")
    assert task_events.types(f"{claim.id}.settle.1").count("received") == 1
    calls = {sink: len(calls) for sink, calls in system.calls(event).items()}
    assert calls == {sink: attempts[outcome] for sink, outcome in outcomes.items()}


def test_the_error_of_a_failed_delivery_is_kept_for_flower(
    system: System, sinks: SampleSinks, app: Celery
) -> None:
    _, claim = refused_by_crm(system, sinks)
    result = app.AsyncResult(f"{claim.id}.crm.1")
    assert eventually(lambda: result.state == "FAILURE")
    assert "400 Bad Request" in str(result.result)
    assert sinks.url("crm") not in str(result.traceback)


def test_a_delivery_fails_after_its_last_attempt(
    system: System, sinks: SampleSinks, task_events: TaskEvents
) -> None:
    max_attempts = REGISTRY["crm"].policy.max_attempts
    event = envelope()
    sinks.behave("crm", "status", status=503, retry_after=0)

    claim = system.settle(event)

    crm = claim.deliveries["crm"]
    assert (claim.status, crm.outcome) == ("partial_failure", "failed")
    assert (crm.attempts, crm.error) == (max_attempts, "503 Service Unavailable")
    assert len(system.calls(event)["crm"]) == max_attempts
    task_events.wait_for(f"{claim.id}.crm.1", "retried", count=max_attempts - 1)
    task_events.wait_for(f"{claim.id}.crm.1", "failed")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_retryable_answer_is_retried(system: System, sinks: SampleSinks, status: int) -> None:
    event = envelope()
    sinks.behave("crm", "status", status=status, retry_after=0, times=1)
    claim = system.settle(event)
    assert (claim.status, claim.deliveries["crm"].attempts) == ("completed", 2)
    assert [r.key for r in system.calls(event)["crm"]] == [f"{claim.id}:crm"] * 2


@pytest.mark.parametrize("status", [302, 400, 401, 404, 409, 410, 422])
def test_a_permanent_answer_is_final(system: System, sinks: SampleSinks, status: int) -> None:
    event = envelope()
    sinks.behave("crm", "status", status=status)
    claim = system.settle(event)
    assert (claim.status, claim.deliveries["crm"].attempts) == ("partial_failure", 1)
    assert str(status) in str(claim.deliveries["crm"].error)
    assert len(system.calls(event)["crm"]) == 1


def test_a_broken_connection_is_retried(system: System, sinks: SampleSinks) -> None:
    event = envelope()
    sinks.behave("crm", "close", times=1)
    claim = system.settle(event)
    assert (claim.status, claim.deliveries["crm"].attempts) == ("completed", 2)


def test_retry_after_in_seconds_is_obeyed(system: System, sinks: SampleSinks) -> None:
    event = envelope()
    sinks.behave("crm", "status", status=429, retry_after=2, times=1)
    assert system.settle(event).status == "completed"
    first, second = (from_rfc3339(request.at) for request in system.calls(event)["crm"])
    assert timedelta(seconds=2) <= second - first < timedelta(seconds=5)


def test_retry_after_as_a_date_is_obeyed(system: System, sinks: SampleSinks) -> None:
    event = envelope()
    after = HttpDate(3)
    sinks.behave("crm", "status", status=503, retry_after=after, times=1)
    assert system.settle(event).status == "completed"
    _, second = (from_rfc3339(request.at) for request in system.calls(event)["crm"])
    assert timedelta() <= second - after.date < timedelta(seconds=3)


def test_a_terminated_delivery_settles_as_revoked(
    system: System, sinks: SampleSinks, app: Celery, task_events: TaskEvents
) -> None:
    event = envelope()
    delivery = f"{event['id']}.crm.1"
    sinks.behave("crm", "hang", seconds=8)
    system.accept(event)
    eventually(lambda: system.calls(event)["crm"])

    revoke(app, delivery, terminate=True)

    claim = system.settled(event["id"])
    crm = claim.deliveries["crm"]
    assert (claim.status, crm.outcome, crm.error) == (
        "partial_failure",
        "revoked",
        "revoked by an operator",
    )
    assert task_events.wait_for(delivery)[0]["type"] == "task-revoked"
    assert len(claim.audit) == 1
    assert_chain_holds(claim.audit)
    assert len(system.calls(event)["crm"]) == 1


def test_a_failed_delivery_called_by_hand_completes_the_event(
    system: System, sinks: SampleSinks, app: Celery, task_events: TaskEvents
) -> None:
    event, claim = refused_by_crm(system, sinks)

    task_events.wait_for(call(app, "deliver.crm", claim.id), "succeeded")

    redriven = eventually(lambda: _changed(system, claim))
    assert (redriven.status, redriven.deliveries["crm"].outcome) == ("completed", "delivered")
    assert redriven.deliveries["crm"].attempts == 2
    assert [record["status"] for record in redriven.audit] == ["partial_failure", "completed"]
    assert redriven.audit[0] == claim.audit[0]
    assert_chain_holds(redriven.audit)
    assert [r.key for r in system.calls(event)["crm"]] == [f"{claim.id}:crm"] * 2
    assert [len(system.calls(event)[sink]) for sink in ("analytics", "compliance")] == [1, 1]
    assert claim.id not in system.due()


def test_a_delivery_called_by_hand_is_retried(
    system: System, sinks: SampleSinks, app: Celery
) -> None:
    event, claim = refused_by_crm(system, sinks)
    sinks.behave("crm", "status", status=503, retry_after=0, times=2)

    call(app, "deliver.crm", claim.id)

    redriven = eventually(lambda: _changed(system, claim))
    assert (redriven.status, redriven.deliveries["crm"].attempts) == ("completed", 4)
    assert len(system.calls(event)["crm"]) == 4
    assert_chain_holds(redriven.audit)


def test_a_failed_delivery_by_hand_leaves_the_status(
    system: System, sinks: SampleSinks, app: Celery
) -> None:
    _, claim = refused_by_crm(system, sinks)
    sinks.behave("crm", "status", status=404)

    call(app, "deliver.crm", claim.id)

    redriven = eventually(lambda: _changed(system, claim))
    assert (redriven.status, redriven.deliveries["crm"].error) == (
        "partial_failure",
        "404 Not Found",
    )
    assert [len(redriven.audit), redriven.deliveries["crm"].attempts] == [2, 2]
    assert_chain_holds(redriven.audit)
    assert claim.id not in system.due()


def test_simultaneous_deliveries_by_hand_are_one_call(
    system: System, sinks: SampleSinks, app: Celery, task_events: TaskEvents
) -> None:
    event, claim = refused_by_crm(system, sinks)
    sinks.behave("crm", "slow", seconds=0.5)

    calls = [call(app, "deliver.crm", claim.id, attempt=name) for name in ("one", "two")]

    ended = [task_events.wait_for(task_id)[0] for task_id in calls]
    redriven = eventually(lambda: _changed(system, claim))
    assert sorted(e["type"] for e in ended) == ["task-failed", "task-succeeded"]
    assert (redriven.status, len(redriven.audit)) == ("completed", 2)
    assert len(system.calls(event)["crm"]) == 2


def test_a_delivered_event_called_by_hand_makes_no_call(
    system: System, ingest: IngestContainer, app: Celery, task_events: TaskEvents
) -> None:
    event = envelope()
    claim = system.settle(event)
    task_events.wait_for(call(app, "deliver.crm", claim.id), "succeeded")
    assert len(system.calls(event)["crm"]) == 1
    assert system.claim(claim.id) == claim


def test_a_delivery_by_hand_of_an_open_event_fails(
    system: System, sinks: SampleSinks, app: Celery, task_events: TaskEvents
) -> None:
    event = envelope()
    sinks.behave("compliance", "slow", seconds=8)  # until the call by hand has failed, at most
    key = system.accept(event)
    eventually(lambda: system.calls(event)["compliance"])
    task_events.wait_for(call(app, "deliver.crm", key), "failed")
    claim = system.settled(key)
    assert (claim.status, len(claim.audit)) == ("completed", 1)
    assert len(system.calls(event)["crm"]) == 1


@pytest.mark.parametrize("name", ["deliver.analytics", "deliver.crm", "settle"])
def test_a_task_called_with_an_unknown_key_fails(
    app: Celery, ingest: IngestContainer, task_events: TaskEvents, name: str
) -> None:
    [ended] = task_events.wait_for(call(app, name, "unknown-id"))
    assert ended["type"] == "task-failed"
    assert "no claim of unknown-id" in ended["exception"]


def test_a_sweep_of_an_unknown_key_fails(
    celery_setup: CeleryTestSetup, ingest: IngestContainer
) -> None:
    assert "no claim of unknown-id" in sweep(celery_setup, "unknown-id")


def test_settle_called_by_hand_changes_nothing(
    system: System, sinks: SampleSinks, app: Celery, task_events: TaskEvents
) -> None:
    _, claim = refused_by_crm(system, sinks)
    [ended] = task_events.wait_for(call(app, "settle", claim.id))
    assert "partial_failure" in ended["result"]
    assert system.claim(claim.id) == claim


def test_a_sweep_of_a_settled_event_changes_nothing(
    system: System, ingest: IngestContainer, celery_setup: CeleryTestSetup
) -> None:
    claim = system.settle(envelope())
    assert "{'takenOver': 0}" in sweep(celery_setup, claim.id)
    assert system.claim(claim.id) == claim


def test_a_sweep_leaves_an_event_with_a_lease_alone(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup
) -> None:
    event = envelope()
    sinks.behave("crm", "slow", seconds=0.5)
    key = system.accept(event)
    eventually(lambda: system.calls(event)["crm"])
    assert "{'takenOver': 0}" in sweep(celery_setup, key)
    assert system.settled(key).status == "completed"
    assert len(system.calls(event)["crm"]) == 1


def test_a_sweep_of_an_overdue_event_finishes_it(
    system: System, sinks: SampleSinks, celery_setup: CeleryTestSetup, task_events: TaskEvents
) -> None:
    event = envelope()
    sinks.behave("crm", "slow", seconds=0.5)
    key = system.accept(event)
    eventually(lambda: system.calls(event)["crm"])
    strand(system, key)
    task_events.wait_for(f"{key}.crm.1", "succeeded")
    system.change(key, "due_at", {"N": "1"})  # as if its lease had run out

    assert "{'takenOver': 1}" in sweep(celery_setup, key)

    claim = system.settled(key)
    assert (claim.status, claim.generation, len(claim.audit)) == ("completed", 2, 1)
    assert_chain_holds(claim.audit)
    assert [r.key for r in system.calls(event)["crm"]] == [f"{key}:crm"] * 2
    assert key not in system.due()


def strand(system: System, key: str) -> None:
    """Delete the parts that the event's chord has counted, so that it is never complete."""
    store = system.broker.client
    parts = f"{key}.analytics.1"

    def lost() -> int:
        names = [n for n in store.scan_iter("*.parts") if store.hexists(n, parts)]
        return int(store.delete(*names)) if names else 0

    eventually(lost)


def _changed(system: System, before: Claim) -> Claim | None:
    """The claim, once it has settled again."""
    claim = system.claim(before.id)
    return claim if len(claim.audit) > len(before.audit) else None
