"""Contexts in the whole system: the CRM gets them, and other sinks do not wait for them."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from celery import Celery

from embedded.cxone import Cxone, contact
from embedded.sinks import SampleSinks
from tasks.claims import Claim
from tasks.cli.output import claim_json
from tasks.clock import from_rfc3339
from tests.support.envelopes import SINKS, Envelope, assert_chain_holds, envelope, typed_event
from tests.support.system import System, aws
from tests.support.waiting import eventually

NONE_YET = "CXone has none yet: 404 Not Found"

Start = Callable[..., System]


@pytest.fixture(scope="module")
def shared_cxone() -> Iterator[Cxone]:
    """CXone, for all tests of this module."""
    with Cxone() as cxone:
        yield cxone


@pytest.fixture
def cxone(shared_cxone: Cxone) -> Iterator[Cxone]:
    """The same, without faults afterwards."""
    yield shared_cxone
    for part in ("tokens", "contacts"):
        shared_cxone.behave(part)


@pytest.fixture(scope="module")
def start(
    aws_url: str,
    sample_sinks: SampleSinks,
    shared_cxone: Cxone,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Start]:
    """Start systems that end with this module."""
    with ExitStack() as stack:

        def start(**settings: str) -> System:
            described = System(
                tmp_path_factory.mktemp("contexts"),
                aws_url=aws_url,
                sinks=sample_sinks,
                **{
                    **shared_cxone.settings(),
                    "CXONE_READ_TIMEOUT_SECONDS": "1",
                    **settings,
                },
            )
            return stack.enter_context(described)

        yield start


@pytest.fixture(scope="module")
def shared_system(start: Start) -> System:
    """A system that delivers events without a context if there is none."""
    return start()


@pytest.fixture(scope="module")
def waiting_system(start: Start, aws_url: str, shared_cxone: Cxone) -> System:
    """A system that waits an hour for a context, and has its secret in AWS Secrets Manager."""
    _, _, secret = shared_cxone.client.partition(":")
    with closing(aws("secretsmanager", aws_url)) as client:
        kept = client.create_secret(Name="cxone-client", SecretString=json.dumps({"key": secret}))
    return start(CXONE_WAIT_SECONDS="3600", CXONE_CLIENT_SECRET=f"{kept['ARN']}#key")


def id_of(event: Envelope) -> str:
    """The interaction that an event is about."""
    return str(event["detail"]["interactionId"])


def lag(cxone: Cxone, event: Envelope) -> None:
    """Let CXone have no context of an event's interaction yet."""
    cxone.behave("contacts", "status", status=404, match=id_of(event))


def notes(claim: Claim) -> list[str]:
    """What the newest audit record notes."""
    assert_chain_holds(list(claim.audit))
    found: list[str] = claim.audit[-1].get("notes", [])
    return found


def test_only_the_crm_gets_the_context(system: System, sinks: SampleSinks, cxone: Cxone) -> None:
    event = envelope("routed")
    claim = system.settle(event)
    assert (claim.status, notes(claim)) == ("completed", [])
    calls = system.calls(event)
    [crm] = calls["crm"]
    assert crm.body == {**typed_event(event, "routed"), "context": contact(id_of(event))}
    assert all("context" not in c.body for s in ("analytics", "compliance") for c in calls[s])
    assert [a.what for a in cxone.asked("contacts")].count(id_of(event)) == 1


def test_a_missing_context_is_noted(system: System, sinks: SampleSinks, cxone: Cxone) -> None:
    event = envelope("created")
    lag(cxone, event)
    claim = system.settle(event)
    assert claim.status == "completed"
    assert notes(claim) == [f"crm: without context: {NONE_YET}"]
    [crm] = system.calls(event)["crm"]
    assert crm.body == typed_event(event, "created")
    shown = system.celery("claims", "show", claim.id).stdout
    assert f"crm: without context: {NONE_YET}" in shown


def test_wrong_credentials_name_the_settings(
    system: System, sinks: SampleSinks, cxone: Cxone
) -> None:
    cxone.behave("contacts", "status", status=403)
    claim = system.settle(envelope())
    reason = "CXone: 403 Forbidden (see CXONE_CLIENT_ID, CXONE_CLIENT_SECRET, CXONE_SCOPE)"
    assert notes(claim) == [f"crm: without context: {reason}"]
    assert f"no context for any event: {reason}" in system.worker.logs()


def test_every_attempt_of_a_delivery_is_the_same_request(
    system: System, sinks: SampleSinks, cxone: Cxone
) -> None:
    event = envelope()
    lag(cxone, event)
    sinks.behave("crm", "status", status=503, times=2)
    key = system.accept(event)
    eventually(lambda: system.calls(event)["crm"])
    cxone.behave("contacts")  # it is available from now on
    claim = system.settled(key)
    assert [call.body for call in system.calls(event)["crm"]] == [
        typed_event(event, "completed")
    ] * 3
    assert claim.deliveries["crm"].attempts == 3
    assert notes(claim) == [f"crm: without context: {NONE_YET}"]


def test_other_sinks_do_not_wait_for_a_context(
    system: System, sinks: SampleSinks, cxone: Cxone
) -> None:
    event = envelope()
    cxone.behave("contacts", "hang", seconds=60)
    key = system.accept(event)
    eventually(lambda: all(system.calls(event)[sink] for sink in ("analytics", "compliance")))
    claim = system.settled(key, seconds=100)
    assert claim.status == "completed"
    assert notes(claim) == ["crm: without context: CXone: no answer within 1 s"]
    at = {sink: from_rfc3339(system.calls(event)[sink][0].at) for sink in SINKS}
    assert max(at["analytics"], at["compliance"]) < at["crm"]


def test_a_parked_delivery_requests_no_context(
    system: System, sinks: SampleSinks, cxone: Cxone
) -> None:
    redis = system.broker.client
    redis.hset("breaker.crm", "open_until", int(1_000 * (time.time() + 3_600)))
    try:
        event = envelope()
        claim = system.settle(event)
    finally:
        redis.delete("breaker.crm")
    assert claim.deliveries["crm"].outcome == "parked"
    assert id_of(event) not in [asked.what for asked in cxone.asked("contacts")]


def test_a_context_is_in_no_log_event_or_item(
    system: System, sinks: SampleSinks, cxone: Cxone
) -> None:
    event = envelope()
    sinks.behave("crm", "status", status=400, match=id_of(event))
    claim = system.settle(event)
    assert "context" in system.calls(event)["crm"][0].body
    output = json.dumps([system.task_events.of(f"{claim.id}."), claim_json(claim)])
    output += system.worker.logs() + system.ingest.logs() + str(system.item(claim.id))
    private = contact(id_of(event))
    for field in ("lastName", "fromAddress"):
        assert private[field] not in output


# ── Waiting ───────────────────────────────────────────────────────────────────────────────────


def test_an_event_can_wait_for_its_context(
    waiting_system: System, sinks: SampleSinks, cxone: Cxone
) -> None:
    system, event = waiting_system, envelope()
    lag(cxone, event)
    claim = system.settle(event)
    assert claim.status == "partial_failure"
    crm = claim.deliveries["crm"]
    assert (crm.outcome, crm.attempts, crm.transient) == ("failed", 0, True)
    assert crm.error == f"waits for its context: {NONE_YET}"
    assert claim.id in system.due()
    assert not system.calls(event)["crm"]

    cxone.behave("contacts")
    system.change(claim.id, "due_at", {"N": "1"})
    sweep(system, claim.id)
    eventually(lambda: system.claim(claim.id).status == "completed")
    claim = system.claim(claim.id)
    assert (notes(claim), claim.deliveries["crm"].attempts) == ([], 1)
    [call] = system.calls(event)["crm"]
    assert call.body == {**typed_event(event, "completed"), "context": contact(id_of(event))}
    assert claim.id not in system.due()


def test_a_wait_for_a_context_ends(
    waiting_system: System, sinks: SampleSinks, cxone: Cxone
) -> None:
    system, event = waiting_system, envelope()
    lag(cxone, event)
    send(system, "process_event", event["id"], event, "2026-01-31T12:00:00.000Z")
    claim = system.settled(event["id"])
    assert claim.status == "completed"
    assert notes(claim) == [f"crm: without context: {NONE_YET}"]


def sweep(system: System, key: str) -> None:
    """Let a worker sweep one event."""
    send(system, "sweep", key)


def send(system: System, task: str, *arguments: object) -> None:
    """Publish a task, as beat and ingest do."""
    with Celery("tests", broker=system.broker.url, set_as_current=False) as app:
        queue = "events" if task == "process_event" else "settle"
        app.send_task(task, arguments, queue=queue)
