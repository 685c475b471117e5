"""The commands as a user runs them, whose shell has the settings."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery

from embedded.stubs.sinks import SampleSinks
from tasks.claims import Claim
from tests.support.envelopes import SINKS, assert_chain_holds, envelope
from tests.support.system import IngestContainer, System
from tests.support.waiting import eventually


def lines_of(text: str) -> list[Any]:
    """Parse one JSON object per line."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def completed(system: System, ingest: IngestContainer) -> Claim:
    """An event that every sink has."""
    return system.settle(envelope("routed"))


@pytest.fixture
def redriven(system: System, sinks: SampleSinks, app: Celery) -> Claim:
    """An event that the CRM refused at first: two audit records."""
    sinks.behave("crm", "status", status=400)
    claim = system.settle(envelope())
    sinks.behave("crm")
    app.send_task("deliver.crm", [claim.id])
    eventually(lambda: len(system.claim(claim.id).audit) == 2)
    return system.claim(claim.id)


def test_claims_show_json_prints_the_whole_event(system: System, redriven: Claim) -> None:
    done = system.celery("claims", "show", redriven.id, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    shown = json.loads(done.stdout)
    audit = shown.pop("audit")
    deliveries = shown.pop("deliveries")
    assert shown == {
        "eventId": redriven.id,
        "interactionId": redriven.interaction_id,
        "eventType": "completed",
        "status": "completed",
        "version": 4,
        "receivedAt": redriven.received_at,
        "processedAt": redriven.processed_at,
        "lagMs": audit[-1]["lagMs"],
        "dueAt": None,
    }
    assert set(deliveries) == set(SINKS)
    assert deliveries["crm"].keys() == {"outcome", "attempts", "error", "at", "calls"}
    assert {s: (d["outcome"], d["attempts"], d["error"]) for s, d in deliveries.items()} == {
        "analytics": ("delivered", 1, None),
        "crm": ("delivered", 2, None),
        "compliance": ("delivered", 1, None),
    }
    assert [record["status"] for record in audit] == ["partial_failure", "completed"]
    assert_chain_holds(audit)


def test_claims_show_prints_when_an_open_event_is_due(
    system: System, sinks: SampleSinks, app: Celery
) -> None:
    sinks.behave("crm", "hang", seconds=9)
    event = envelope()
    key = system.accept(event)
    eventually(lambda: system.calls(event)["crm"])
    shown = json.loads(system.celery("claims", "show", key, "--json").stdout)
    assert (shown["status"], shown["processedAt"], shown["lagMs"], shown["audit"]) == (
        "processing",
        None,
        None,
        [],
    )
    assert shown["dueAt"] > shown["receivedAt"]
    due = system.celery("claims", "list", "--due", "--json")
    assert key in {claim["eventId"] for claim in lines_of(due.stdout)}
    app.control.revoke(f"{key}.crm.1", terminate=True)
    system.settled(key)


def test_claims_show_prints_a_summary_for_people(system: System, redriven: Claim) -> None:
    done = system.celery("claims", "show", redriven.id)
    assert done.returncode == 0
    for word in (redriven.id, "completed", "analytics", "crm", "2 attempts", "the chain holds"):
        assert word in done.stdout


def test_claims_list_filters_and_prints_oldest_first(
    system: System, sinks: SampleSinks, completed: Claim
) -> None:
    sinks.behave("crm", "status", status=400)
    refused = [system.settle(envelope()).id for _ in range(2)]
    invalid = system.settle(envelope(detail={"channel": "fax"})).id

    def listed(*options: str) -> list[Any]:
        done = system.celery("claims", "list", "--json", "--limit", "100000", *options)
        assert done.returncode == 0, done.stderr
        return lines_of(done.stdout)

    everything = listed()
    received = [claim["receivedAt"] for claim in everything]
    ids = [claim["eventId"] for claim in everything]
    assert received == sorted(received)
    assert [i for i in ids if i in {completed.id, *refused, invalid}] == [
        completed.id,
        *refused,
        invalid,
    ]
    entry = everything[ids.index(refused[0])]
    assert entry["status"] == "partial_failure"
    assert entry["deliveries"]["crm"]["outcome"] == "failed"

    by_sink = listed("--sink", "crm", "--status", "partial_failure")
    assert [c["eventId"] for c in by_sink][-2:] == refused
    assert {claim["status"] for claim in listed("--status", "failed")} == {"failed"}
    assert invalid in {claim["eventId"] for claim in listed("--status", "failed")}


def test_claims_list_stops_at_its_limit_and_reports_it(system: System, completed: Claim) -> None:
    done = system.celery("claims", "list", "--limit", "1")
    assert len(done.stdout.splitlines()) == 1
    assert "--limit" in done.stderr


def test_audit_show_prints_the_records(system: System, redriven: Claim) -> None:
    done = system.celery("audit", "show", redriven.id)
    assert done.returncode == 0
    assert lines_of(done.stdout) == list(redriven.audit)


@contextmanager
def tampered(system: System, claim: Claim, audit: list[Any]) -> Iterator[None]:
    """Put other audit records into the table, until the end of ``with``."""
    kept = system.item(claim.id)["audit"]
    system.change(claim.id, "audit", {"L": [{"S": json.dumps(record)} for record in audit]})
    yield
    system.change(claim.id, "audit", kept)


def test_audit_verify_finds_tampered_records(
    system: System, redriven: Claim, completed: Claim
) -> None:
    first, second = redriven.audit
    prettier = {**first, "status": "completed"}
    tamperings: list[list[Any]] = [[prettier, second], [second], [second, first], ["a text"]]
    for audit in tamperings:
        with tampered(system, redriven, audit):
            done = system.celery("audit", "verify", completed.id, redriven.id)
        assert done.returncode == 1
        assert redriven.id in done.stdout
        assert completed.id not in done.stdout
        assert "Traceback" not in done.stderr


def test_audit_verify_all_finds_the_tampered_event(system: System, redriven: Claim) -> None:
    first, second = redriven.audit
    with tampered(system, redriven, [{**first, "eventId": "another"}, second]):
        done = system.celery("audit", "verify", "--all")
    assert done.returncode == 1
    assert {line.split(": ")[0] for line in done.stdout.splitlines()} == {redriven.id}


def test_audit_verify_accepts_intact_chains(system: System, redriven: Claim) -> None:
    for which in ([redriven.id], ["--all"]):
        done = system.celery("audit", "verify", *which)
        assert (done.returncode, done.stdout) == (0, "")
        assert "0 broken" in done.stderr


@pytest.mark.parametrize("command", [["claims", "show"], ["audit", "show"], ["audit", "verify"]])
def test_an_unknown_id_is_an_error(system: System, command: list[str]) -> None:
    done = system.celery(*command, "unknown-id")
    assert (done.returncode, done.stdout) == (1, "")
    assert "unknown-id" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unreachable_table_is_an_error(system: System) -> None:
    away = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    done = system.run("celery", "-A", "tasks", "claims", "show", "an-id", **away)
    assert (done.returncode, done.stdout) == (1, "")
    assert "DynamoDB get_item" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unreachable_redis_is_an_error(system: System) -> None:
    done = system.run("celery", "-A", "tasks", "stats", REDIS_URL="redis://127.0.0.1:1/0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Redis: " in done.stderr
    assert "Traceback" not in done.stderr


def test_sinks_list_prints_their_hosts(system: System) -> None:
    done = system.celery("sinks", "list", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    listed = lines_of(done.stdout)
    assert [(sink["sink"], sink["endpoint"]) for sink in listed] == [
        (name, "127.0.0.1") for name in SINKS
    ]


def test_sinks_test_delivers_a_sample(system: System, sinks: SampleSinks) -> None:
    done = system.celery("sinks", "test", "crm", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    key = json.loads(done.stdout)["request"]["headers"]["Idempotency-Key"]
    (received,) = sinks.received("crm", key)
    assert received.headers["X-Test-Delivery"] == "true"
    sinks.behave("crm", "status", status=401)
    assert system.celery("sinks", "test", "crm").returncode == 1
