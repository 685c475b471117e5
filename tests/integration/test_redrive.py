"""``celery -A tasks redrive``, and deliveries called by hand, of failed and parked events."""

import getpass
import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from embedded.stubs.sinks import SampleSinks
from tasks.claims import Claim
from tasks.events.metadata import SHIPPED
from tasks.sweep import longest_wait
from tests.support.envelopes import SINKS, Envelope, assert_chain_holds, envelope
from tests.support.nodes import ROOT, python
from tests.support.system import System, environment
from tests.support.waiting import TIMEOUT, eventually

from .test_recovery import close_breakers, let_probe, open_breakers

ACTOR = f"{getpass.getuser()}@{socket.gethostname()}"


@pytest.fixture(scope="module")
def module_system(retrying_system: System) -> System:
    """The system with ``SHORT_DELAYED_RETRIES``."""
    return retrying_system


@pytest.fixture
def system(module_system: System, sinks: SampleSinks) -> System:
    """The same, with all circuit breakers closed."""
    close_breakers(module_system)
    return module_system


def refused_by_crm(system: System, sinks: SampleSinks, status: int = 400) -> tuple[Envelope, Claim]:
    """Make an event that every sink has but the CRM, which accepts everything from now on."""
    event = envelope()
    sinks.behave("crm", "status", status=status)
    claim = system.settle(event)
    sinks.behave("crm")
    assert (claim.status, claim.due_at) == ("partial_failure", None)
    return event, claim


def redrive(system: System, *words: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end."""
    return system.run("celery", "-A", "tasks", "redrive", *words, **settings)


@contextmanager
def redriving(system: System, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """Have the command run."""
    process = subprocess.Popen(
        python("celery", "-A", "tasks", "redrive", *words),
        cwd=ROOT,
        env=environment(**system.settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As at a terminal: tests that run in the background have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - a C call
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def settled_again(system: System, before: Claim) -> Claim:
    """Wait until an event has one more audit record."""
    eventually(lambda: len(system.claim(before.id).audit) > len(before.audit))
    return system.settled(before.id)


def calls_of(system: System, event: Envelope) -> dict[str, int]:
    """Count the calls to each sink, all of which were made under the one key."""
    calls = system.calls(event)
    for sink in SINKS:
        assert {call.key for call in calls[sink]} <= {f"{event['id']}:{sink}"}
    return {sink: len(calls[sink]) for sink in SINKS}


# ── What is redriven ──────────────────────────────────────────────────────────────────────────


def test_an_event_is_redriven_to_the_sinks_that_lack_it(system: System, sinks: SampleSinks) -> None:
    event, claim = refused_by_crm(system, sinks)

    done = redrive(system, claim.id)

    assert (done.returncode, done.stdout) == (0, f"{claim.id}: redriven\n")
    assert done.stderr == "1 redriven\n"
    redriven = settled_again(system, claim)
    assert (redriven.status, redriven.due_at) == ("completed", None)
    assert redriven.audit[-1]["actor"] == ACTOR
    assert_chain_holds(list(redriven.audit))
    assert calls_of(system, event) == {"analytics": 1, "crm": 2, "compliance": 1}
    assert not {"targets", "actor", "holder"} & system.item(claim.id).keys()


def test_a_delivered_event_is_sent_again_only_by_force(system: System, sinks: SampleSinks) -> None:
    event = envelope()
    claim = system.settle(event)

    done = redrive(system, claim.id)
    assert (done.returncode, done.stdout) == (0, f"{claim.id}: nothing to do\n")
    assert system.claim(claim.id) == claim
    assert set(calls_of(system, event).values()) == {1}

    done = redrive(system, claim.id, "--force", "--sink", "crm")
    assert (done.returncode, done.stdout) == (0, f"{claim.id}: redriven\n")
    forced = settled_again(system, claim)
    assert forced.status == "completed"
    assert forced.audit[-1]["actor"] == ACTOR
    assert forced.audit[-1]["notes"] == ["sent again to who had it: crm"]
    assert_chain_holds(list(forced.audit))
    assert calls_of(system, event) == {"analytics": 1, "crm": 2, "compliance": 1}


def test_options_select_and_a_dry_run_sends_nothing(system: System, sinks: SampleSinks) -> None:
    (teapot, wanted), (gone, other) = (
        refused_by_crm(system, sinks, status) for status in (418, 410)
    )
    options = ["--sink", "crm", "--since", wanted.received_at, "--error", "418"]

    dry = redrive(system, *options, "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "1 would be redriven\n")
    assert [line.split()[4] for line in dry.stdout.splitlines()] == [wanted.id]
    dry = redrive(system, *options, "--dry-run", "--json")
    assert json.loads(dry.stdout) == {"eventId": wanted.id, "answer": "would be redriven"}
    assert system.claim(wanted.id) == wanted

    done = redrive(system, *options, "--json")
    assert done.stderr == "1 redriven\n"
    assert json.loads(done.stdout) == {"eventId": wanted.id, "answer": "redriven"}
    assert settled_again(system, wanted).status == "completed"
    assert system.claim(other.id) == other
    assert (calls_of(system, teapot)["crm"], calls_of(system, gone)["crm"]) == (2, 1)


def test_simultaneous_redrives_make_one_delivery(system: System, sinks: SampleSinks) -> None:
    event, claim = refused_by_crm(system, sinks)
    rivals = 3
    sinks.behave("crm", "slow", seconds=3)
    running = [redriving(system, claim.id) for _ in range(rivals)]
    processes = [process.__enter__() for process in running]
    try:
        outputs = [process.communicate(timeout=TIMEOUT)[0] for process in processes]
    finally:
        for process in running:
            process.__exit__(None, None, None)

    assert [process.returncode for process in processes] == [0] * rivals
    answers = [answer.removeprefix(f"{claim.id}: ").strip() for answer in outputs]
    assert answers.count("redriven") == 1, answers
    assert set(answers) <= {"redriven", "under way", "nothing to do"}
    redriven = settled_again(system, claim)
    assert (redriven.status, redriven.generation, len(redriven.audit)) == ("completed", 2, 2)
    assert calls_of(system, event)["crm"] == 2


def test_an_invalid_event_is_redriven_by_corrected_rules(
    system: System, sinks: SampleSinks, tmp_path: Path
) -> None:
    event = envelope(metadata={"region": "eu-south-1"})
    claim = system.settle(event)
    assert (claim.status, calls_of(system, event)["crm"]) == ("failed", 0)
    rules = json.loads(SHIPPED.read_text())
    rules["prod"]["properties"]["region"]["enum"].append("eu-south-1")
    corrected = tmp_path / "rules.json"
    corrected.write_text(json.dumps(rules))

    done = redrive(system, claim.id, METADATA_REGISTRY=str(corrected))

    assert (done.returncode, done.stdout) == (0, f"{claim.id}: redriven\n"), done.stderr
    redriven = settled_again(system, claim)
    assert (redriven.status, redriven.event_type) == ("completed", "completed")
    assert redriven.received_at == claim.received_at
    assert redriven.audit[0] == claim.audit[0]
    assert redriven.audit[1]["actor"] == ACTOR
    assert_chain_holds(list(redriven.audit))
    assert set(calls_of(system, event).values()) == {1}
    assert claim.id not in system.due()


def test_an_unknown_id_is_an_error(system: System, sinks: SampleSinks) -> None:
    done = redrive(system, "unknown-id")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no claim of unknown-id" in done.stderr
    assert "Traceback" not in done.stderr
    done = redrive(system, "unknown-id", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (
        1,
        {"eventId": "unknown-id", "answer": "unknown"},
    )


# ── What is interrupted ───────────────────────────────────────────────────────────────────────


def test_an_interrupted_redrive_continues_where_it_stopped(
    system: System, sinks: SampleSinks
) -> None:
    events, claims = zip(*(refused_by_crm(system, sinks) for _ in range(3)), strict=True)
    keys = [claim.id for claim in claims]
    with redriving(system, "--rate", "0.1", *keys) as process:
        settled_again(system, claims[0])
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode != 0
    assert "Traceback" not in errors
    # The next one would have been ten seconds later.
    assert [system.claim(key).generation for key in keys] == [2, 1, 1]

    done = redrive(system, *keys)

    assert done.stderr == "1 nothing to do, 2 redriven\n"
    for claim in claims[1:]:
        assert settled_again(system, claim).status == "completed"
    assert [calls_of(system, event)["crm"] for event in events] == [2, 2, 2]


def test_a_redrive_killed_before_it_published_is_swept_up(
    system: System, sinks: SampleSinks
) -> None:
    event = envelope()
    claim = system.settle(event)
    fault = {
        "FAULT_POINT": "redrive: reopened, before the call",
        "FAULT_VICTIM": "child",
        "FAULT_FLAG": str(system.folder / f"struck-{claim.id}"),
    }
    words = ["-A", "tasks", "redrive", claim.id, "--force", "--sink", "crm"]
    done = system.run("tests.support.faulty_celery", *words, **fault)
    assert done.returncode == -signal.SIGKILL, done.stderr
    reopened = system.claim(claim.id)
    assert (reopened.status, reopened.targets) == ("processing", ["crm"])
    assert calls_of(system, event)["crm"] == 1

    system.make_due(claim.id)  # as if its lease had run out

    redriven = settled_again(system, claim)
    assert (redriven.status, redriven.generation) == ("completed", 3)
    assert redriven.audit[-1]["actor"] == ACTOR
    assert redriven.audit[-1]["notes"] == ["sent again to who had it: crm"]
    assert calls_of(system, event) == {"analytics": 1, "crm": 2, "compliance": 1}
    assert redriven.due_at is None


def test_a_queue_knows_how_long_its_messages_wait(system: System, sinks: SampleSinks) -> None:
    _, claim = refused_by_crm(system, sinks)
    system.worker.pause()
    try:
        assert redrive(system, claim.id).returncode == 0
        eventually(lambda: longest_wait(system.broker.client) > 1)
    finally:
        system.worker.unpause()
    assert settled_again(system, claim).status == "completed"


# ── By hand ───────────────────────────────────────────────────────────────────────────────────


def call(app: Celery, key: str, **more: Any) -> str:
    """Call ``deliver.crm`` with the dedup key alone, as Flower's ``async-apply`` does."""
    task_id = f"{key}.deliver.crm.by-hand"
    app.send_task("deliver.crm", [key], task_id=task_id, **more)
    return task_id


def test_a_parked_delivery_called_by_hand_is_made_as_a_probe(
    system: System, sinks: SampleSinks, app: Celery
) -> None:
    open_breakers(system, "crm")
    event = envelope()
    claim = system.settle(event)
    assert claim.deliveries["crm"].outcome == "parked"

    call(app, claim.id)
    parked = settled_again(system, claim)
    assert (parked.status, parked.deliveries["crm"].outcome) == ("partial_failure", "parked")
    assert re.fullmatch(r"somebody at .+", parked.audit[-1]["actor"])
    assert calls_of(system, event)["crm"] == 0
    assert claim.id in {due.key for due in system.claims.parked("crm")}

    let_probe(system, "crm")
    call(app, claim.id)  # unless a drain is faster
    completed = settled_again(system, parked)
    assert (completed.status, completed.due_at) == ("completed", None)
    assert_chain_holds(list(completed.audit))
    assert calls_of(system, event) == dict.fromkeys(SINKS, 1)


def test_an_exhausted_delivery_called_by_hand_is_made(
    system: System, sinks: SampleSinks, app: Celery
) -> None:
    sinks.behave("crm", "status", status=429)  # does not count as a failure of the sink
    event = envelope()
    claim = system.settle(event)
    assert (claim.status, claim.due_at is not None) == ("partial_failure", True)
    sinks.behave("crm")

    call(app, claim.id, kwargs={"actor": "zoe@desk"})  # unless the delayed retry is faster

    completed = settled_again(system, claim)
    assert (completed.status, completed.due_at) == ("completed", None)
    assert completed.audit[-1].get("actor") in ("zoe@desk", None)
    assert_chain_holds(list(completed.audit))
    assert [call.answered for call in system.calls(event)["crm"]].count(200) == 1
