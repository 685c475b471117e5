import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from tasks.claims import Delivery, Due, Outcome, Status
from tasks.claims.intake import read_event
from tasks.cli import audit, claims, stats
from tasks.cli.output import claim_json
from tasks.errors import StoreError
from tests.support.samples import (
    EVENT_ID,
    PROD_RULES,
    RECEIVED_AT,
    delivered,
    failed,
    make_claim,
    make_detail,
    make_envelope,
    make_record,
)

WIDTH = 100

MODULES = (audit, claims, stats)
GROUPS = {"audit": audit.audit, "claims": claims.claims, "stats": stats.stats}


def settled(key=EVENT_ID, **changes):
    """A claim of which one sink refused the event, with its audit record."""
    deliveries = {
        "analytics": delivered(),
        "crm": failed("503 Service Unavailable"),
        "compliance": delivered(attempts=2),
    }
    record = make_record(
        event_id=key,
        interaction_id="interaction-1",
        event_type="created",
        received_at=RECEIVED_AT,
        processed_at="2026-01-31T12:00:31.000Z",
        status=Status.PARTIAL_FAILURE,
        deliveries=deliveries,
        previous=(0, None),
        notes=["lifecycleStage created taken over status completed"],
    )
    return make_claim(
        **{
            "id": key,
            "status": Status.PARTIAL_FAILURE,
            "deliveries": deliveries,
            "version": 2,
            "holder": None,
            "due_at": None,
            "processed_at": record["processedAt"],
            "notes": record["notes"],
            "audit": [record],
            **changes,
        }
    )


def completed(key):
    every = {sink: delivered() for sink in ("analytics", "crm", "compliance")}
    return make_claim(id=key, status=Status.COMPLETED, deliveries=every, due_at=None, holder=None)


def invalid(key=EVENT_ID):
    detail = make_detail(channel="fax", lifecycleStage="nothing")
    return read_event(PROD_RULES, key, make_envelope(id=key, detail=detail), RECEIVED_AT, "x")[0]


class Table:
    """The claims, in memory."""

    def __init__(self, *claims):
        self.claims = {claim.id: claim for claim in claims}

    def get(self, key):
        return self.claims.get(key)

    def received(self, _since=None, _until=None):
        ordered = sorted(self.claims.values(), key=lambda claim: claim.received_at)
        return (claim.summary() for claim in ordered)

    def due(self, until=None):
        del until
        return (
            Due(claim.due_at, claim.id, claim.version, claim.status, claim.dispatched_at)
            for claim in self.claims.values()
            if claim.due_at is not None
        )


@pytest.fixture
def run(monkeypatch):
    """Run a command over these claims."""

    def run(command, *kept, exit_code=0):
        for module in MODULES:
            monkeypatch.setattr(module, "table", lambda: Table(*kept))
        group, *arguments = command.split()
        result = CliRunner().invoke(GROUPS[group], arguments)
        assert result.exit_code == exit_code, result.output
        return result

    return run


def assert_fits(text):
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []


# ── claims show ───────────────────────────────────────────────────────────────────────────────


def test_a_claim_is_shown_with_its_whole_life(run):
    output = run(f"claims show {EVENT_ID}", settled()).stdout
    first, *rest = output.splitlines()
    assert first == f"{EVENT_ID}  partial_failure"
    words = [line.split() for line in rest]
    assert ["interaction", "interaction-1,", "created"] in words
    assert f"received {RECEIVED_AT}".split() in words
    assert ["settled", "2026-01-31T12:00:31.000Z,", "30000", "ms", "later"] in words
    assert ["analytics", "delivered", "1", "attempt", "2026-01-31T12:00:02.000Z"] in words
    assert ["crm", "failed", "5", "attempts", "2026-01-31T12:00:30.000Z"] in words
    assert ["503", "Service", "Unavailable"] in words
    assert "lifecycleStage created taken over status completed" in output
    assert "the chain holds" in output
    assert_fits(output)


def test_a_claim_that_is_being_worked_on_is_shown_as_such(run):
    output = run(f"claims show {EVENT_ID}", make_claim(due_at=1_769_861_401)).stdout
    assert "not yet" in output
    assert "2026-01-31T12:10:01.000Z" in output
    assert output.count("pending") == 3
    assert "audit: nothing yet" in output
    assert_fits(output)


def test_an_invalid_event_is_shown_with_its_reasons(run):
    output = run(f"claims show {EVENT_ID}", invalid()).stdout
    assert "of no known type" in output
    assert "detail.channel: Must be one of: voice, chat, email, sms, webchat." in output
    assert "detail.lifecycleStage: Must be one of: " in output
    assert "deliveries" not in output
    assert_fits(output)


@pytest.mark.parametrize(
    "error",
    [
        "400 Bad Request",
        "307 Temporary Redirect: redirects are not followed",
        "431 Request Header Fields Too Large",
        "connection failed: Network is unreachable",
        "no answer within 10 s",
    ],
)
def test_the_errors_of_deliveries_fit_on_a_line(run, error):
    claim = settled(deliveries={"compliance": failed(error, attempts=12)})
    output = run(f"claims show {EVENT_ID}", claim).stdout
    assert error in output
    assert_fits(output)


def test_a_chain_that_breaks_is_told(run):
    forged = settled()
    forged.audit[0]["status"] = "completed"
    output = run(f"claims show {EVENT_ID}", forged).stdout
    assert "the chain breaks: revision 1: does not match its own hash" in output
    assert_fits(output)


@pytest.mark.parametrize(
    "claim", [settled(), make_claim(), invalid()], ids=["settled", "processing", "invalid"]
)
def test_a_claim_is_one_json_object(run, claim):
    output = run(f"claims show {EVENT_ID} --json", claim).stdout
    assert output.count("\n") == 1
    shown = json.loads(output)
    assert shown == json.loads(json.dumps(claim_json(claim)))
    assert list(shown) == [
        "eventId",
        "interactionId",
        "eventType",
        "status",
        "version",
        "receivedAt",
        "processedAt",
        "lagMs",
        "deliveries",
        "dueAt",
        "audit",
    ]
    for delivery in shown["deliveries"].values():
        assert list(delivery) == ["outcome", "attempts", "error", "at", "calls"]


def test_nothing_that_came_from_outside_steers_the_terminal(run):
    escape = "\x1b]0;owned\x07\x1b[2J"
    claim = settled(interaction_id=f"x{escape}")
    assert "\x1b" not in run(f"claims show {EVENT_ID}", claim).stdout
    assert "\x07" not in run(f"claims show {EVENT_ID}", claim).stdout


@pytest.mark.parametrize(
    "command", ["claims show x", "claims show x --json", "audit show x", "audit verify x"]
)
def test_an_unknown_id_is_told_on_stderr_and_exits_1(run, command):
    result = run(command, settled(), exit_code=1)
    assert result.stdout == ""
    assert result.stderr == "Error: no claim of x: it never came, or is past its retention\n"


@pytest.mark.parametrize("command", ["claims show x", "claims list", "audit verify --all"])
def test_an_unreachable_table_is_reported_and_exits_1(monkeypatch, command):
    def away():
        raise StoreError("DynamoDB get_item: Connect timeout")

    for module in MODULES:
        monkeypatch.setattr(module, "table", away)
    group, *arguments = command.split()
    result = CliRunner().invoke(GROUPS[group], arguments)
    assert result.exit_code == 1
    assert result.stderr == "Error: DynamoDB get_item: Connect timeout\n"


# ── claims list ───────────────────────────────────────────────────────────────────────────────

MANY = [
    replace(settled("one"), received_at="2026-01-31T12:00:03.000Z"),
    replace(completed("two"), received_at="2026-01-31T12:00:02.000Z"),
    make_claim(id="three", due_at=300, received_at="2026-01-31T12:00:01.000Z"),
    make_claim(id="four", due_at=200, received_at="2026-01-31T12:00:04.000Z"),
    replace(invalid("five"), received_at="2026-01-31T12:00:05.000Z"),
]


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ("", ["three", "two", "one", "four", "five"]),
        ("--status completed", ["two"]),
        ("--status failed", ["five"]),
        ("--status processing", ["three", "four"]),
        ("--sink crm", ["three", "one", "four"]),
        ("--sink analytics", ["three", "four"]),
        ("--sink crm --status partial_failure", ["one"]),
        ("--due", ["four", "three"]),
        ("--due --status completed", []),
        ("--limit 2", ["three", "two"]),
        ("--due --limit 1", ["four"]),
    ],
)
def test_a_list_has_what_was_asked_for_in_order(run, options, ids):
    lines = run(f"claims list --json {options}", *MANY).stdout.splitlines()
    shown = [json.loads(line) for line in lines]
    assert [summary["eventId"] for summary in shown] == ids
    for summary in shown:
        assert list(summary) == [
            "eventId",
            "interactionId",
            "eventType",
            "status",
            "receivedAt",
            "deliveries",
        ]
    text = run(f"claims list {options}", *MANY).stdout.splitlines()
    assert [next(i for i in ids if f"  {i}" in f"{line} ") for line in text] == ids


def test_a_due_list_under_a_filter_reaches_its_limit(run):
    lagging = [
        make_claim(
            id=f"crm-has-it-{n}", due_at=n, deliveries={"crm": delivered(), "analytics": Delivery()}
        )
        for n in range(5)
    ]
    lacking = [make_claim(id=f"crm-lacks-it-{n}", due_at=10 + n) for n in range(3)]
    output = run("claims list --due --sink crm --limit 2 --json", *lagging, *lacking).stdout
    assert [json.loads(line)["eventId"] for line in output.splitlines()] == [
        "crm-lacks-it-0",
        "crm-lacks-it-1",
    ]


def test_an_empty_list_says_so_on_stderr(run):
    result = run("claims list")
    assert (result.stdout, result.stderr) == ("", "none\n")
    assert run("claims list --json").output == ""


def test_a_list_that_was_cut_says_so_on_stderr(run):
    result = run("claims list --limit 2", *MANY)
    assert len(result.stdout.splitlines()) == 2
    assert "--limit" in result.stderr
    assert run("claims list --limit 5", *MANY[:4]).stderr == ""


@pytest.mark.parametrize(
    "claim",
    [
        settled(),
        completed(EVENT_ID),
        make_claim(event_type="abandoned"),
        invalid(),
        settled(
            deliveries={
                sink: Delivery(outcome=Outcome.REVOKED, at=RECEIVED_AT)
                for sink in ("analytics", "crm", "compliance")
            }
        ),
    ],
    ids=["one-lacks-it", "completed", "pending", "invalid", "all-revoked"],
)
def test_a_line_of_a_list_fits(run, claim):
    assert_fits(run("claims list", claim).stdout)


@pytest.mark.parametrize("options", ["--status done", "--sink fax", "--limit 0", "--limit x"])
def test_an_option_that_cannot_be_is_refused(run, options):
    assert "Invalid value" in run(f"claims list {options}", exit_code=2).stderr


# ── audit ─────────────────────────────────────────────────────────────────────────────────────


def test_audit_records_are_one_json_object_a_line(run):
    claim = settled()
    output = run(f"audit show {EVENT_ID}", claim).stdout
    assert [json.loads(line) for line in output.splitlines()] == list(claim.audit)


def broken(key):
    claim = settled(key)
    claim.audit[0]["status"] = "completed"
    return claim


def test_chains_that_hold_are_counted(run):
    result = run("audit verify one two", settled("one"), settled("two"))
    assert (result.stdout, result.stderr) == ("", "2 checked, 0 broken\n")


@pytest.mark.parametrize("which", ["one two three", "--all"])
def test_a_chain_that_does_not_hold_is_named_and_exits_1(run, which):
    claims = settled("one"), broken("two"), make_claim(id="three")
    result = run(f"audit verify {which}", *claims, exit_code=1)
    assert result.stdout == "two: revision 1: does not match its own hash\n"
    assert result.stderr == "3 checked, 1 broken\n"


@pytest.mark.parametrize("arguments", ["", "--all one"])
def test_verify_asks_for_ids_or_all(run, arguments):
    assert "give one or more IDs, or --all" in run(f"audit verify {arguments}", exit_code=2).stderr


def test_verify_all_goes_on_where_an_event_goes_away_meanwhile(monkeypatch):
    class Expiring(Table):
        def get(self, key):
            return None if key == "one" else super().get(key)

    monkeypatch.setattr(audit, "table", lambda: Expiring(settled("one"), settled("two")))
    result = CliRunner().invoke(audit.audit, ["verify", "--all"])
    assert result.exit_code == 0, result.output
    assert "0 broken" in result.stderr
