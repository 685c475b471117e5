"""The list of events: filters, pages, search; and bulk redrives of what it selects."""

from datetime import timedelta

import pytest
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from dashboard.pages import event_list
from dashboard.pages.bulk_redrive import INVALID, Progress, Run, remaining, select, work
from dashboard.pages.event_list import (
    UNFINISHED,
    Filter,
    is_redrivable,
    listing,
    parse_cursor,
    search,
)
from tasks.claims import Cursor, Delivery, Due, Status, Summary
from tasks.clock import now
from tasks.errors import ClaimNotFoundError, StoreError
from tasks.events import EventType
from tasks.recovery.redrive import RedriveAnswer
from tests.support.samples import PROD_RULES, delivered, failed, make_claim


def summary(number=0, status=Status.COMPLETED, kind="created", **deliveries):
    received_at = f"2026-01-31T12:00:{number:02}.000Z"
    return Summary(f"event-{number}", status, received_at, kind, "interaction-1", deliveries)


# ── Filters ───────────────────────────────────────────────────────────────────────────────────


def test_an_empty_form_selects_everything():
    empty = dict.fromkeys(("status", "sink", "type", "since", "until"), "")
    assert Filter.from_arguments(empty) == Filter.from_arguments({}) == Filter()
    assert Filter().to_arguments() == {}


def test_a_filter_survives_its_form():
    wanted = Filter.from_arguments(
        {
            "status": "partial_failure",
            "sink": "crm",
            "type": "transfer",
            "since": "2026-01-31T12:00",
            "until": "2026-01-31T14:00:00+01:00",
        }
    )
    assert wanted.status is Status.PARTIAL_FAILURE
    assert wanted.event_type is EventType.TRANSFER
    assert wanted.to_arguments() == {
        "status": "partial_failure",
        "sink": "crm",
        "type": "transfer",
        "since": "2026-01-31T12:00:00.000Z",
        "until": "2026-01-31T13:00:00.000Z",
    }
    assert Filter.from_arguments(wanted.to_arguments()) == wanted
    unfinished = Filter.from_arguments({"status": UNFINISHED})
    assert unfinished.unfinished
    assert unfinished.to_arguments() == {"status": UNFINISHED}


@pytest.mark.parametrize("time", ["0001-01-01T00:00+23:59", "9999-12-31T23:59-23:59", "soon"])
def test_filter_rejects_what_is_no_time(time):
    with pytest.raises(ValueError, match="not a time"):
        Filter.from_arguments({"since": time})


@pytest.mark.parametrize(("age", "seconds"), [("90m", 5_400), ("2h", 7_200), ("7d", 604_800)])
def test_filter_takes_an_age_for_a_time(age, seconds):
    since = Filter.from_arguments({"since": age}).since
    assert abs(now() - timedelta(seconds=seconds) - since) < timedelta(minutes=1)


@pytest.mark.parametrize(
    "argument",
    [
        {"status": "done"},
        {"sink": "fax"},
        {"type": "call"},
        {"since": "yesterday"},
        {"since": "2h ago"},
        {"until": "999999d"},
    ],
)
def test_filter_rejects_unknown_values(argument):
    with pytest.raises(ValueError, match="no"):
        Filter.from_arguments(argument)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(), {0, 1, 2}),
        (Filter(status=Status.COMPLETED), {0}),
        (Filter(sink="crm"), {1, 2}),
        (Filter(sink="analytics"), {2}),
        (Filter(event_type=EventType.ROUTED), {1}),
        (Filter(sink="crm", event_type=EventType.ROUTED, status=Status.FAILED), set()),
    ],
)
def test_filter_matches_by_status_sink_and_type(wanted, found):
    candidates = [
        summary(0, crm=delivered()),
        summary(1, Status.PARTIAL_FAILURE, "routed", crm=failed(), analytics=delivered()),
        summary(2, Status.PROCESSING, crm=Delivery(), analytics=Delivery()),
    ]
    through = {number for number, event in enumerate(candidates) if wanted.matches(event)}
    assert through == found


# ── Pages ─────────────────────────────────────────────────────────────────────────────────────


class FakeClaims:
    """A table of these events, newest first."""

    def __init__(self, summaries=(), claims=(), due=()):
        self.summaries = summaries
        self.claims = {claim.id: claim for claim in claims}
        self._due = due
        self.read = 0

    def newest(self, since, until, after):
        places = [Cursor(s.received_at, s.id) for s in self.summaries]
        start = places.index(after) + 1 if after else 0
        for entry in self.summaries[start:]:
            self.read += 1
            yield entry

    def get(self, key):
        return self.claims.get(key)

    def of_interaction(self, interaction):
        return (c for c in self.claims.values() if c.interaction_id == interaction)

    def due(self, until):
        return iter(self._due)

    def parked(self, sink):
        return iter(())


def test_pages_follow_each_other_without_gap_or_repetition(monkeypatch):
    monkeypatch.setattr(event_list, "PAGE_SIZE", 3)
    claims = FakeClaims([summary(number) for number in range(10, 0, -1)])
    seen, after, pages = [], None, 0
    while pages == 0 or after:
        page = listing(claims, Filter(), after)
        seen += page.events
        after = page.next
        pages += 1
    assert seen == claims.summaries
    assert pages == 4
    claims.read = 0
    listing(claims, Filter(), None)
    assert claims.read == 4  # one more than is shown


def test_a_filtered_page_stops_reading_and_reports_where(monkeypatch):
    monkeypatch.setattr(event_list, "MAX_READ", 4)
    claims = FakeClaims([summary(number) for number in range(10, 0, -1)])
    page = listing(claims, Filter(status=Status.FAILED), None)
    assert page.events == []
    assert page.read_back_to == summary(7).received_at
    assert page.next == Cursor(summary(7).received_at, "event-7")
    assert listing(claims, Filter(status=Status.FAILED), page.next).read_back_to


def test_unfinished_events_are_listed_by_due_time(monkeypatch):
    claims = [make_claim(id="a", due_at=30), make_claim(id="b", due_at=20), make_claim(id="c")]
    settled = make_claim(id="d", due_at=None)
    due = [Due(at, key, 1, Status.PROCESSING, 0) for at, key in ((30, "a"), (20, "b"), (5, "d"))]
    page = listing(FakeClaims(claims=[*claims, settled], due=due), Filter(unfinished=True), None)
    assert [event.id for event in page.events] == ["b", "a"]


def test_search_finds_an_event_or_those_of_an_interaction():
    claims = FakeClaims(claims=[make_claim(id="a"), make_claim(id="b")])
    assert search(claims, "a") == "a"
    assert [event.id for event in search(claims, "interaction-1")] == ["a", "b"]
    assert search(claims, "unknown") == []


def test_a_cursor_is_a_time_and_an_id():
    assert parse_cursor("") is None
    assert parse_cursor("2026-01-31T12:00:00.000Z an-id") == Cursor(
        "2026-01-31T12:00:00.000Z", "an-id"
    )
    for wrong in ("x", "an-id 2026-01-31T12:00:00.000Z", "2026-01-31 an-id"):
        with pytest.raises(ValueError, match=r"[Ii]nvalid|no time zone"):
            parse_cursor(wrong)


@pytest.mark.parametrize(
    ("event", "redrivable"),
    [
        (summary(crm=delivered()), False),
        (summary(status=Status.PARTIAL_FAILURE, crm=failed()), True),
        (summary(status=Status.PROCESSING, crm=failed()), False),
        (summary(status=Status.FAILED), True),
        (summary(status=Status.COMPLETED), False),
        (summary(status=Status.FAILED, gone=failed()), False),
    ],
)
def test_events_that_a_sink_lacks_are_redrivable(event, redrivable):
    assert is_redrivable(event) is redrivable


# ── Runs ──────────────────────────────────────────────────────────────────────────────────────


def test_select_counts_events_by_sink(monkeypatch):
    found = [
        summary(1, Status.FAILED, crm=failed(), analytics=failed(), gone=failed()),
        summary(2, Status.PARTIAL_FAILURE, crm=failed(), analytics=delivered()),
        summary(3, Status.FAILED),
    ]
    run, keys = select(found, by="ann", sink=None)
    assert keys == ["event-1", "event-2", "event-3"] == run.first
    assert run.lacking == {"crm": 2, "analytics": 1, INVALID: 1}
    assert (run.count, run.complete, run.chosen_by, run.started_by) == (3, True, "ann", None)
    run, _ = select(found, by="ann", sink="analytics")
    assert run.lacking == {"analytics": 1, INVALID: 1}


def test_select_is_limited_in_events_and_in_time(monkeypatch):
    monkeypatch.setattr("dashboard.pages.bulk_redrive.MAX_EVENTS", 2)
    found = [summary(number) for number in range(3)]
    run, keys = select(found, by="ann", sink=None)
    assert (len(keys), run.complete) == (2, False)
    run, keys = select(found[:2], by="ann", sink=None)
    assert (len(keys), run.complete) == (2, True)
    run, keys = select(found, by="ann", sink=None, timeout=-1)
    assert (keys, run.complete) == ([], False)


class FakeRuns:
    """A run's list, in memory."""

    def __init__(self, *keys):
        self.keys = list(keys)
        self.answers = []
        self.reason = None
        self.ended = False

    def next(self, run):
        return self.keys[0] if self.keys and not self.reason else None

    def note(self, run, key, answer):
        self.keys.remove(key)
        self.answers.append((key, answer))

    def stop(self, run, reason):
        self.reason = reason

    def end(self, run):
        self.ended = True


@pytest.fixture
def slept(monkeypatch):
    """The durations of all sleeps, without sleeping."""
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


RUN = Run(
    id="1",
    chosen_by="bob",
    chosen_at="2026-01-31T12:00:00.000Z",
    sink="crm",
    count=3,
    complete=True,
    lacking={},
    first=[],
    started_by="ann",
    rate=10,
)


def test_a_run_redrives_at_its_rate_for_the_user_who_started_it(monkeypatch, slept):
    calls = []

    def redrive(claims, rules, key, *, actor, sink):
        calls.append((key, actor, sink))
        if key == "b":
            raise ClaimNotFoundError
        return RedriveAnswer.REDRIVEN

    monkeypatch.setattr("dashboard.pages.bulk_redrive.redrive_event", redrive)
    runs = FakeRuns("a", "b", "c")
    work(runs, RUN, object(), PROD_RULES)
    assert calls == [(key, "ann", "crm") for key in "abc"]
    assert runs.answers == [("a", "redriven"), ("b", "not found"), ("c", "redriven")]
    assert slept == pytest.approx([0, 0.1, 0.2], abs=0.05)
    assert runs.ended


def test_a_run_stops_when_dynamodb_does_not_answer(monkeypatch, slept):
    def redrive(*_, **__):
        raise StoreError("unavailable")

    monkeypatch.setattr("dashboard.pages.bulk_redrive.redrive_event", redrive)
    runs = FakeRuns("a", "b")
    work(runs, RUN, object(), PROD_RULES)
    assert (runs.keys, runs.answers, runs.ended) == (["a", "b"], [], True)
    assert runs.reason == "DynamoDB did not answer"
    assert len(slept) > 4


@pytest.mark.parametrize("error", [RedisError("full"), OperationalError("full")])
def test_a_run_ends_when_redis_takes_no_messages(monkeypatch, slept, caplog, error):
    def redrive(*_, **__):
        raise error

    monkeypatch.setattr("dashboard.pages.bulk_redrive.redrive_event", redrive)
    runs = FakeRuns("a", "b")
    work(runs, RUN, object(), PROD_RULES)
    assert (runs.answers, runs.ended) == ([], True)
    assert f"interrupted: {type(error).__name__}" in caplog.text


def test_remaining_depends_on_the_rate_of_a_run():
    assert remaining(RUN, Progress(state="running", left=1_200, answers={})) == "2 minutes"
