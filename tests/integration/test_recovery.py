"""Sinks that are down for long: what is parked, what is drained, and delayed retries."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from embedded.stubs.sinks import SampleSinks
from tasks.claims import Claim, Delivery, Outcome, Report
from tasks.claims.intake import read_event
from tasks.claims.settlement import settle_claim
from tasks.clock import now, to_rfc3339
from tasks.events import MetadataRules
from tasks.events.metadata import SHIPPED
from tests.support.envelopes import SINKS, Envelope, assert_chain_holds, envelope
from tests.support.short_settings import SHORT_DELAYED_RETRIES
from tests.support.system import System
from tests.support.waiting import eventually

#: Seconds for what takes several steps of a drain, one a second.
LONG = 120.0


@pytest.fixture(scope="module")
def module_system(retrying_system: System) -> System:
    """The system with ``SHORT_DELAYED_RETRIES``."""
    return retrying_system


@pytest.fixture
def system(module_system: System, sinks: SampleSinks) -> System:
    """The same, with all circuit breakers closed."""
    close_breakers(module_system)
    return module_system


def breaker_of(sink: str) -> str:
    """The Redis key of a sink's circuit breaker."""
    return f"breaker.{sink}"


def close_breakers(system: System) -> None:
    """Close the circuit breakers of all sinks."""
    system.broker.client.delete(*map(breaker_of, SINKS))


def open_breakers(system: System, *sinks: str) -> None:
    """Open the circuit breakers of these sinks, without an end."""
    for sink in sinks:
        system.broker.client.hset(
            breaker_of(sink), mapping={"open_until": str(10**15), "opened": "1"}
        )


def let_probe(system: System, sink: str) -> None:
    """Make the next probe of an open circuit breaker due."""
    assert system.broker.client.hexists(breaker_of(sink), "open_until")
    system.broker.client.hset(breaker_of(sink), "open_until", "1")


def is_closed(system: System, sink: str) -> bool:
    """Whether a circuit breaker is closed."""
    return not system.broker.client.hexists(breaker_of(sink), "open_until")


def completed(system: System, keys: Sequence[str]) -> list[Claim]:
    """Wait until these events have reached every sink."""

    def claims() -> list[Claim]:
        found = [claim for claim in map(system.claims.get, keys) if claim]
        done = len(found) == len(keys) and all(claim.status == "completed" for claim in found)
        return found if done else []

    return eventually(claims, LONG, what="all are completed")


def retry_now(system: System, key: str) -> Claim:
    """Make the delayed retry of an event due, and wait until it has settled again."""
    generation = system.claim(key).generation
    system.make_due(key)
    eventually(lambda: system.claim(key).generation > generation, what="it is taken over")
    return system.settled(key)


def delivered_once(system: System, events: Sequence[Envelope]) -> None:
    """Each sink accepted each event once; every call was under the same key."""
    for event in events:
        for sink, calls in system.calls(event).items():
            assert {call.key for call in calls} == {f"{event['id']}:{sink}"}
            assert [call.answered for call in calls].count(200) == 1, (sink, calls)


def parked_for(system: System, sink: str) -> set[str]:
    """The keys of the events that are parked for a sink."""
    return {due.key for due in system.claims.parked(sink)}


def shown(system: System, *words: str) -> list[Any]:
    """What a command prints, one JSON object per line."""
    done = system.celery(*words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# ── A sink goes down, and comes back ──────────────────────────────────────────────────────────


def test_a_sink_that_is_down_is_parked_and_drained_when_back(
    system: System, sinks: SampleSinks
) -> None:
    sinks.behave("crm", "status", status=503)
    failures = int(SHORT_DELAYED_RETRIES["CRM_BREAKER_FAILURES"])
    first = [envelope() for _ in range(failures)]
    for event in first:
        assert system.settle(event).status == "partial_failure"
    assert not is_closed(system, "crm")

    # While it is down: no call, and the others get everything.
    later = [envelope() for _ in range(3)]
    for event in later:
        claim = system.settle(event)
        crm = claim.deliveries["crm"]
        assert (claim.status, crm.outcome, crm.attempts) == ("partial_failure", "parked", 0)
        assert crm.error == "parked: the breaker of crm is open"
        assert system.calls(event)["crm"] == []
        assert {len(system.calls(event)[sink]) for sink in ("analytics", "compliance")} == {1}
    events = first + later
    keys = [event["id"] for event in events]
    eventually(lambda: parked_for(system, "crm") >= set(keys), what="all are parked")
    calls = [call for event in events for call in system.calls(event)["crm"]]
    assert len(calls) == failures, "none since it opened"
    assert set(keys) <= system.due()
    listed = shown(system, "claims", "list", "--due", "--sink", "crm", "--json")
    assert {claim["eventId"] for claim in listed} >= set(keys)
    [stats] = shown(system, "stats", "--json")
    assert stats["sinks"]["crm"]["state"] == "open"
    assert stats["sinks"]["crm"]["parked"] >= len(keys)
    assert stats["sinks"]["crm"]["opened"] == 1
    assert stats["due"] >= len(keys)

    # It is back: one probe, then the others, and what comes meanwhile as well.
    sinks.behave("crm")
    let_probe(system, "crm")
    eventually(lambda: is_closed(system, "crm"), what="a probe gets through")
    fresh = [envelope() for _ in range(2)]
    keys += [system.accept(event) for event in fresh]
    claims = completed(system, keys)
    delivered_once(system, events + fresh)
    for claim in claims:
        assert_chain_holds(list(claim.audit))
        assert claim.audit[-1]["status"] == "completed"
        assert claim.due_at is None
    assert not set(keys) & (system.due() | parked_for(system, "crm"))
    parked = sorted(claims[: len(events)], key=lambda claim: claim.received_at)
    drained = [claim.dispatched_at for claim in parked]
    assert drained == sorted(drained), "the oldest first"
    logs = system.worker.logs()
    assert "breaker of crm opened: it is not called" in logs
    assert "breaker of crm closed: it is called again" in logs


def test_of_two_parked_sinks_each_is_drained_when_it_recovers(
    system: System, sinks: SampleSinks
) -> None:
    open_breakers(system, "crm", "analytics")
    event = envelope()
    claim = system.settle(event)
    assert {s: d.outcome for s, d in claim.deliveries.items()} == {
        "analytics": "parked",
        "crm": "parked",
        "compliance": "delivered",
    }

    let_probe(system, "crm")
    eventually(lambda: system.claim(claim.id).deliveries["crm"].outcome == "delivered")
    assert system.settled(claim.id).deliveries["analytics"].outcome == "parked"
    assert claim.id in parked_for(system, "analytics") - parked_for(system, "crm")

    let_probe(system, "analytics")
    [claim] = completed(system, [claim.id])
    delivered_once(system, [event])
    assert_chain_holds(list(claim.audit))


def test_failed_probes_keep_the_breaker_open_until_one_succeeds(
    system: System, sinks: SampleSinks
) -> None:
    before = system.worker.logs().count("breaker of analytics stays open: the probe failed")
    sinks.behave("analytics", "close")
    events = [envelope() for _ in range(5)]
    keys = [system.accept(event) for event in events]
    for key in keys:
        system.settled(key)

    def probed() -> bool:
        logs = system.worker.logs()
        return logs.count("breaker of analytics stays open: the probe failed") > before + 1

    eventually(probed, what="probes fail")
    sinks.behave("analytics")

    def through() -> bool:
        for key in keys:  # a failed probe may have used up the short delayed retries
            if system.claim(key).deliveries["analytics"].outcome == Outcome.FAILED:
                system.make_due(key)
        return all(system.claim(key).status == "completed" for key in keys)

    eventually(through, LONG, what="all are completed")
    delivered_once(system, events)
    for key in keys:
        assert_chain_holds(list(system.claim(key).audit))


# ── Delayed retries ───────────────────────────────────────────────────────────────────────────


def test_a_delayed_retry_is_recorded_when_its_outcome_changes(
    system: System, sinks: SampleSinks
) -> None:
    event = envelope()
    attempts = int(SHORT_DELAYED_RETRIES["COMPLIANCE_MAX_TRIES"])
    sinks.behave("compliance", "status", status=503, retry_after=0)
    claim = system.settle(event)
    assert (claim.status, claim.deliveries["compliance"].attempts) == ("partial_failure", attempts)
    assert claim.due_at is not None
    assert claim.id in system.due()

    claim = retry_now(system, claim.id)
    assert claim.deliveries["compliance"].attempts >= 2 * attempts
    assert len(claim.audit) == 1, "it ended as before"
    assert claim.due_at is not None

    sinks.behave("compliance", "status", status=500, retry_after=0)
    claim = retry_now(system, claim.id)
    claim = retry_now(system, claim.id)
    assert claim.deliveries["compliance"].error == "500 Internal Server Error"
    assert len(claim.audit) == 2

    sinks.behave("compliance")
    eventually(lambda: retry_now(system, claim.id).status == "completed")
    claim = system.claim(claim.id)
    assert [record["status"] for record in claim.audit] == [
        "partial_failure",
        "partial_failure",
        "completed",
    ]
    assert_chain_holds(list(claim.audit))
    assert claim.due_at is None
    assert {sink: len(calls) for sink, calls in system.calls(event).items()} == {
        "analytics": 1,
        "crm": 1,
        "compliance": claim.deliveries["compliance"].attempts,
    }
    delivered_once(system, [event])


def test_a_failed_delivery_is_retried_on_its_schedule(system: System, sinks: SampleSinks) -> None:
    event = envelope()
    sinks.behave("compliance", "status", status=503, retry_after=0, times=3)
    [claim] = completed(system, [system.accept(event)])
    assert claim.generation == 2
    assert claim.deliveries["compliance"].attempts == 4
    delivered_once(system, [event])


@pytest.mark.parametrize("sink", ["compliance", "crm"], ids=["failing", "parked"])
def test_an_event_past_its_age_limit_is_given_up_and_audited(
    system: System, sinks: SampleSinks, sink: str
) -> None:
    sinks.behave("compliance", "status", status=503, retry_after=0)
    if sink == "crm":
        sinks.behave("compliance")
        open_breakers(system, "crm")
    event = envelope()
    claim = system.settle(event)
    assert claim.due_at is not None
    long_ago = to_rfc3339(now() - timedelta(days=4))
    system.change(claim.id, "received_at", {"S": long_ago})

    def given_up() -> bool:
        system.make_due(claim.id)
        found = system.claim(claim.id)
        return found.status == "partial_failure" and found.due_at is None

    eventually(given_up, what="it is given up")
    claim = system.claim(claim.id)
    assert claim.audit[-1]["notes"] == [f"given up, past its age limit: {sink}"]
    assert len(claim.audit) == 2
    assert_chain_holds(list(claim.audit))
    assert claim.id not in system.due() | parked_for(system, sink)
    assert "parked_for" not in system.item(claim.id)
    assert bool(system.calls(event)["crm"]) == (sink != "crm")


def test_a_delayed_retry_leaves_permanent_failures_alone(
    system: System, sinks: SampleSinks
) -> None:
    event = envelope()
    sinks.behave("analytics", "status", status=422)
    sinks.behave("compliance", "status", status=503, retry_after=0)
    claim = system.settle(event)
    assert claim.due_at is not None
    sinks.behave("analytics")
    sinks.behave("compliance")

    eventually(lambda: retry_now(system, claim.id).deliveries["compliance"].at)
    eventually(lambda: system.claim(claim.id).deliveries["compliance"].outcome == "delivered")

    claim = system.settled(claim.id)
    assert (claim.status, claim.due_at) == ("partial_failure", None)
    assert claim.deliveries["analytics"].error == "422 Unprocessable Entity"
    assert [len(system.calls(event)[sink]) for sink in ("analytics", "crm")] == [1, 1]
    assert_chain_holds(list(claim.audit))


# ── A sink that was removed ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("others", [{}, {"compliance": Outcome.FAILED}], ids=["alone", "others"])
def test_a_delivery_to_a_removed_sink_is_given_up(
    system: System, sinks: SampleSinks, others: dict[str, Outcome]
) -> None:
    event = envelope()
    key = str(event["id"])
    rules = MetadataRules.from_file(SHIPPED, "prod")
    claim, _ = read_event(rules, key, event, to_rfc3339(now()), holder="an older release")
    lacking = {"fax": Outcome.PARKED, **others}
    system.claims.claim(replace(claim, deliveries=dict.fromkeys((*SINKS, "fax"), Delivery())))
    reports = [
        Report(
            sink=sink,
            outcome=lacking.get(sink, Outcome.DELIVERED),
            attempts=1,
            at=to_rfc3339(now()),
            error="down" if sink in lacking else None,
            transient=sink in lacking,
        )
        for sink in (*SINKS, "fax")
    ]
    settle_claim(system.claims, key, None, reports, 1)
    assert system.claim(key).due_at is not None

    def finished() -> bool:
        system.make_due(key)
        found = system.claim(key)
        return found.status == "partial_failure" and found.due_at is None

    eventually(finished, what="nothing is due")
    claim = system.claim(key)
    fax = claim.deliveries["fax"]
    assert (fax.outcome, fax.error) == ("failed", "given up: there is no such sink any more")
    assert {claim.deliveries[sink].outcome for sink in SINKS} == {"delivered"}
    assert {sink: len(calls) for sink, calls in system.calls(event).items()} == {
        sink: int(sink in others) for sink in SINKS
    }
    assert_chain_holds(list(claim.audit))
