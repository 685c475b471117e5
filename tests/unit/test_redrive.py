import getpass
import itertools
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from click.testing import CliRunner

from tasks.claims import Delivery, Outcome, Status
from tasks.claims.intake import read_event
from tasks.cli import redrive as cli_redrive
from tasks.clock import from_rfc3339, now
from tasks.errors import ClaimNotFoundError, StoreError
from tasks.events import canonical_json
from tasks.recovery.redrive import RedriveAnswer, Selection, envelope_of, redrive_event
from tests.support.samples import (
    EVENT_ID,
    PROD_RULES,
    RECEIVED_AT,
    delivered,
    failed,
    make_claim,
    make_detail,
    make_envelope,
)

# ── Which ─────────────────────────────────────────────────────────────────────────────────────


def settled(key=EVENT_ID, status=Status.PARTIAL_FAILURE, **by_sink):
    return make_claim(id=key, status=status, deliveries=by_sink, holder=None, due_at=None)


def invalid(key=EVENT_ID, **changes):
    envelope = make_envelope(id=key, detail=make_detail(channel="fax")) | changes
    replay = envelope.get("replay-name")
    dedup = f"{key}@{replay}" if replay else key
    return read_event(PROD_RULES, dedup, envelope, RECEIVED_AT, "x")[0]


CLAIMS = [
    settled("crm-503", analytics=delivered(), crm=failed("503 Service Unavailable")),
    settled(
        "both",
        Status.FAILED,
        analytics=failed("422 Unprocessable Entity"),
        crm=failed("503 Service Unavailable"),
    ),
    settled("completed", Status.COMPLETED, analytics=delivered(), crm=delivered()),
    settled("under-way", Status.PROCESSING, analytics=delivered(), crm=failed()),
    invalid("invalid"),
]


class Table:
    """The claims, in memory, of which none may be changed."""

    def __init__(self, *claims):
        self.claims = {claim.id: claim for claim in claims}

    def get(self, key):
        return self.claims.get(key)

    def received(self, since=None, until=None):
        del since, until  # only whole days are left out by the index
        return (claim.summary() for claim in self.claims.values())

    def reopen(self, *_, **__):
        pytest.fail("a claim was reopened")

    replace_invalid = reopen


RECEIVED = from_rfc3339(RECEIVED_AT)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, ["crm-503", "both", "invalid"]),
        ({"sink": "crm"}, ["crm-503", "both"]),
        ({"sink": "analytics"}, ["both"]),
        ({"sink": "compliance"}, []),
        ({"status": Status.FAILED}, ["both", "invalid"]),
        ({"status": Status.PARTIAL_FAILURE}, ["crm-503"]),
        ({"error": "503"}, ["crm-503", "both"]),
        ({"error": "422"}, ["both"]),
        ({"error": "422", "sink": "crm"}, []),  # another sink's error
        ({"error": "503", "status": Status.FAILED, "sink": "crm"}, ["both"]),
        ({"since": RECEIVED, "until": RECEIVED}, ["crm-503", "both", "invalid"]),
        ({"since": RECEIVED + SECOND}, []),
        ({"until": RECEIVED - SECOND}, []),
    ],
    ids=str,
)
def test_what_is_selected(asked, found):
    selected = Selection(**asked).among(Table(*CLAIMS))
    assert [summary.id for summary in selected] == found


# ── What would come of it ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "options", "answer"),
    [
        ("crm-503", {}, RedriveAnswer.REDRIVABLE),
        ("crm-503", {"sink": "crm"}, RedriveAnswer.REDRIVABLE),
        ("crm-503", {"sink": "analytics"}, RedriveAnswer.NOTHING_TO_DO),
        ("crm-503", {"sink": "analytics", "force": True}, RedriveAnswer.REDRIVABLE),
        ("completed", {}, RedriveAnswer.NOTHING_TO_DO),
        ("completed", {"force": True}, RedriveAnswer.REDRIVABLE),
        ("under-way", {}, RedriveAnswer.IN_PROGRESS),
        ("invalid", {}, RedriveAnswer.STILL_INVALID),
    ],
)
def test_a_dry_run_tells_what_would_come_of_it_and_does_nothing(key, options, answer):
    found = redrive_event(Table(*CLAIMS), PROD_RULES, key, actor="zoe", dry_run=True, **options)
    assert found is answer


def test_a_dry_run_reads_an_invalid_event_anew():
    corrected = replace(invalid(), payload=canonical_json(make_envelope()))
    answer = redrive_event(Table(corrected), PROD_RULES, EVENT_ID, actor="zoe", dry_run=True)
    assert answer is RedriveAnswer.REDRIVABLE


@pytest.mark.parametrize(
    ("key", "sink"),
    [("nobody-knows-it", None), ("crm-503", "compliance"), ("invalid", "crm")],
    ids=["unknown", "another-sink", "no-sink-yet"],
)
def test_what_cannot_be_redriven_is_told(key, sink):
    with pytest.raises(ClaimNotFoundError, match=key):
        redrive_event(Table(*CLAIMS), PROD_RULES, key, actor="zoe", sink=sink)


def test_what_this_release_cannot_read_is_left_as_it_is():
    unreadable = replace(CLAIMS[0], payload=canonical_json({"detail": {"channel": "fax"}}))
    assert (
        redrive_event(Table(unreadable), PROD_RULES, "crm-503", actor="z")
        is RedriveAnswer.STILL_INVALID
    )


def test_a_sink_that_is_no_more_is_left_out():
    gone = settled(fax=Delivery(outcome=Outcome.FAILED), crm=delivered())
    assert (
        redrive_event(Table(gone), PROD_RULES, EVENT_ID, actor="z") is RedriveAnswer.NOTHING_TO_DO
    )


def test_an_envelope_comes_back_as_it_came():
    claim = invalid(**{"replay-name": "june"})
    assert claim.id == f"{EVENT_ID}@june"
    new, _ = read_event(PROD_RULES, claim.id, envelope_of(claim), RECEIVED_AT, "x")
    assert (new.id, new.payload_sha256) == (claim.id, claim.payload_sha256)
    assert [e["field"] for e in new.audit[0]["validationErrors"]] == ["detail.channel"]


def test_an_envelope_that_was_too_large_to_keep_is_none():
    assert envelope_of(replace(invalid(), payload=b"")) is None


# ── The command ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def clock(monkeypatch):
    """A clock that only sleeping moves; it remembers when each redrive was."""

    class Clock:
        now = 1_000.0
        redrives: tuple = ()

        def sleep(self, seconds):
            self.now += seconds

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr("tasks.cli.options.time", clock)
    monkeypatch.setattr("tasks.recovery.redrive.time", clock)
    return clock


@pytest.fixture
def run(monkeypatch, clock):
    """Run the command; each redrive comes to the next of these answers."""

    def run(*words, answers=(RedriveAnswer.REDRIVEN,), takes=0.0, exit_code=0):
        coming = itertools.cycle(answers)

        def redrive_one(_table, _rules, key, **options):
            clock.redrives += ((clock.now, key, options),)
            clock.now += takes
            answer = next(coming)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(cli_redrive, "redrive_event", redrive_one)
        monkeypatch.setattr(cli_redrive, "table", lambda: Table(*CLAIMS))
        result = CliRunner().invoke(cli_redrive.redrive, words)
        assert result.exit_code == exit_code, result.output
        return result

    return run


def test_redrives_are_paced(run, clock):
    run("--rate", "2", "a", "b", "c")
    assert [(moment, key) for moment, key, _ in clock.redrives] == [
        (1000.0, "a"),
        (1000.5, "b"),
        (1001.0, "c"),
    ]


def test_a_dry_run_takes_no_time(run, clock):
    result = run("--rate", "0.1", "--dry-run", "a", "b", answers=[RedriveAnswer.REDRIVABLE])
    assert [moment for moment, *_ in clock.redrives] == [1000.0, 1000.0]
    assert all(options["dry_run"] for *_, options in clock.redrives)
    assert result.stdout == "a: would be redriven\nb: would be redriven\n"
    assert result.stderr == "2 would be redriven\n"


def test_many_are_summed_up_and_their_progress_is_told(run):
    keys = [f"event-{number}" for number in range(100)]
    answers = [RedriveAnswer.REDRIVEN] * 4 + [RedriveAnswer.IN_PROGRESS]
    result = run("--rate", "2", *keys, answers=answers)
    assert result.stdout.splitlines() == [f"event-{n}: under way" for n in range(4, 100, 5)]
    *progress, said = result.stderr.splitlines()
    assert progress == ["22 of 100", "43 of 100", "64 of 100", "85 of 100"]
    assert said == "80 redriven, 20 under way"


def test_who_asks_is_told(run, clock, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "zoe")
    monkeypatch.setattr("socket.gethostname", lambda: "desk")
    run("a", "--sink", "crm", "--force")
    ((_, key, options),) = clock.redrives
    assert key == "a"
    assert options == {"actor": "zoe@desk", "sink": "crm", "force": True, "dry_run": False}


@pytest.mark.parametrize("error", [KeyError("uid not found"), OSError("No username set")])
def test_a_user_without_a_name_may_ask_as_well(run, clock, monkeypatch, error):
    def getuser():
        raise error

    monkeypatch.setattr(getpass, "getuser", getuser)
    run("a")
    assert clock.redrives[0][2]["actor"].startswith("somebody@")


def test_an_unknown_one_keeps_none_of_the_others(run, clock):
    unknown = ClaimNotFoundError("no claim of a: it never came, or is past its retention")
    result = run("a", "b", answers=[unknown, RedriveAnswer.REDRIVEN], exit_code=1)
    assert len(clock.redrives) == 2
    assert "no claim of a" in result.stderr
    assert result.stdout == "b: redriven\n"


def test_a_table_that_is_away_ends_it_with_a_message(run):
    result = run("a", "b", answers=[StoreError("DynamoDB get_item: slow")], exit_code=1)
    assert "Error: DynamoDB get_item: slow" in result.output


def test_what_options_select_is_redriven(run, clock):
    result = run("--sink", "crm", "--error", "503")
    assert [key for _, key, _ in clock.redrives] == ["crm-503", "both"]
    assert result.stderr == "2 redriven\n"


def test_what_options_select_is_listed_in_a_dry_run(run, clock):
    result = run("--sink", "crm", "--dry-run")
    assert [line.split()[4] for line in result.stdout.splitlines()] == ["crm-503", "both"]
    assert result.stderr == "2 would be redriven\n"
    assert clock.redrives == ()


def test_there_may_be_nothing_to_redrive(run):
    assert run("--sink", "compliance").stderr == "nothing to redrive\n"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--force"],
        ["--force", "--sink", "crm"],
        ["a", "--since", "2h"],
        ["a", "--status", "failed"],
        ["a", "--error", "503"],
        ["--sink", "fax"],
        ["--status", "completed"],
        ["--since", "yesterday"],
        ["--since", "2026-01-31"],  # in which zone?
        ["--since", "999999999d"],
        *(["a", "--rate", rate] for rate in ("0", "-1", "nan", "inf", "fast")),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused(run, clock, words):
    run(*words, exit_code=2)
    assert clock.redrives == ()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("2h", 7_200), ("3d", 259_200)]
)
def test_a_time_may_be_given_as_an_age(text, seconds):
    moment = cli_redrive._Moment().convert(text, None, None)
    assert abs(now() - moment - timedelta(seconds=seconds)) < timedelta(seconds=60)


def test_a_time_may_be_given_as_such():
    moment = cli_redrive._Moment().convert("2026-01-31T12:00:00Z", None, None)
    assert moment == datetime.fromisoformat("2026-01-31T12:00:00+00:00")
