"""Which events a filter lets through, how they are paged, and how they are chosen for a redrive."""

from datetime import timedelta

import pytest

from dashboard.pages import event_list
from dashboard.pages.bulk_redrive import NOT_VALID, Progress, Run, choose, remaining, work
from dashboard.pages.event_list import UNFINISHED, Filter, can_redrive, listing, place, search
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


def test_an_empty_form_asks_for_everything():
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
    assert wanted.kind is EventType.TRANSFER
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
def test_what_is_no_time_is_refused(time):
    with pytest.raises(ValueError, match="not a time"):
        Filter.from_arguments({"since": time})


@pytest.mark.parametrize(("age", "seconds"), [("90m", 5_400), ("2h", 7_200), ("7d", 604_800)])
def test_a_time_may_be_an_age(age, seconds):
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
def test_what_cannot_be_is_refused(argument):
    with pytest.raises(ValueError, match="no"):
        Filter.from_arguments(argument)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(), {0, 1, 2}),
        (Filter(status=Status.COMPLETED), {0}),
        (Filter(sink="crm"), {1, 2}),
        (Filter(sink="analytics"), {2}),
        (Filter(kind=EventType.ROUTED), {1}),
        (Filter(sink="crm", kind=EventType.ROUTED, status=Status.FAILED), set()),
    ],
)
def test_a_filter_lets_through(wanted, found):
    candidates = [
        summary(0, crm=delivered()),
        summary(1, Status.PARTIAL_FAILURE, "routed", crm=failed(), analytics=delivered()),
        summary(2, Status.PROCESSING, crm=Delivery(), analytics=Delivery()),
    ]
    through = {number for number, event in enumerate(candidates) if wanted.lets_through(event)}
    assert through == found


# ── Pages ─────────────────────────────────────────────────────────────────────────────────────


class FakeClaims:
    """A table of these events, the newest first."""

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
    monkeypatch.setattr(event_list, "SHOWN", 3)
    claims = FakeClaims([summary(number) for number in range(10, 0, -1)])
    seen, after, pages = [], None, 0
    while pages == 0 or after:
        page = listing(claims, Filter(), after)
        seen += page.events
        after = page.after
        pages += 1
    assert seen == claims.summaries
    assert pages == 4
    claims.read = 0
    listing(claims, Filter(), None)
    assert claims.read == 4  # one more than is shown


def test_a_search_among_many_ends_and_says_where(monkeypatch):
    monkeypatch.setattr(event_list, "LOOKED_AT", 4)
    claims = FakeClaims([summary(number) for number in range(10, 0, -1)])
    page = listing(claims, Filter(status=Status.FAILED), None)
    assert page.events == []
    assert page.looked_back_to == summary(7).received_at
    assert page.after == Cursor(summary(7).received_at, "event-7")
    assert listing(claims, Filter(status=Status.FAILED), page.after).looked_back_to


def test_what_has_something_left_to_do_is_listed_by_when(monkeypatch):
    claims = [make_claim(id="a", due_at=30), make_claim(id="b", due_at=20), make_claim(id="c")]
    settled = make_claim(id="d", due_at=None)
    due = [Due(at, key, 1, Status.PROCESSING, 0) for at, key in ((30, "a"), (20, "b"), (5, "d"))]
    page = listing(FakeClaims(claims=[*claims, settled], due=due), Filter(unfinished=True), None)
    assert [event.id for event in page.events] == ["b", "a"]


def test_an_id_finds_the_event_or_those_of_its_interaction():
    claims = FakeClaims(claims=[make_claim(id="a"), make_claim(id="b")])
    assert search(claims, "a") == "a"
    assert [event.id for event in search(claims, "interaction-1")] == ["a", "b"]
    assert search(claims, "nobody") == []


def test_a_place_is_a_time_and_an_id():
    assert place("") is None
    assert place("2026-01-31T12:00:00.000Z an-id") == Cursor("2026-01-31T12:00:00.000Z", "an-id")
    for wrong in ("x", "an-id 2026-01-31T12:00:00.000Z", "2026-01-31 an-id"):
        with pytest.raises(ValueError, match=r"[Ii]nvalid|no time zone"):
            place(wrong)


@pytest.mark.parametrize(
    ("event", "can"),
    [
        (summary(crm=delivered()), False),
        (summary(status=Status.PARTIAL_FAILURE, crm=failed()), True),
        (summary(status=Status.PROCESSING, crm=failed()), False),
        (summary(status=Status.FAILED), True),
        (summary(status=Status.COMPLETED), False),
        (summary(status=Status.FAILED, gone=failed()), False),
    ],
)
def test_what_lacks_something_can_be_redriven(event, can):
    assert can_redrive(event) is can


# ── Runs ──────────────────────────────────────────────────────────────────────────────────────


def test_what_was_chosen_is_counted_by_sink(monkeypatch):
    found = [
        summary(1, Status.FAILED, crm=failed(), analytics=failed(), gone=failed()),
        summary(2, Status.PARTIAL_FAILURE, crm=failed(), analytics=delivered()),
        summary(3, Status.FAILED),
    ]
    run, keys = choose(found, by="ann", sink=None)
    assert keys == ["event-1", "event-2", "event-3"] == run.first
    assert run.lacking == {"crm": 2, "analytics": 1, NOT_VALID: 1}
    assert (run.count, run.complete, run.chosen_by, run.started_by) == (3, True, "ann", None)
    run, _ = choose(found, by="ann", sink="analytics")
    assert run.lacking == {"analytics": 1, NOT_VALID: 1}


def test_a_run_is_bounded_in_number_and_in_the_time_that_choosing_takes(monkeypatch):
    monkeypatch.setattr("dashboard.pages.bulk_redrive.MOST", 2)
    found = [summary(number) for number in range(3)]
    run, keys = choose(found, by="ann", sink=None)
    assert (len(keys), run.complete) == (2, False)
    run, keys = choose(found[:2], by="ann", sink=None)
    assert (len(keys), run.complete) == (2, True)
    run, keys = choose(found, by="ann", sink=None, patience=-1)
    assert (keys, run.complete) == ([], False)


class FakeRuns:
    """A run's list, in memory."""

    def __init__(self, *keys):
        self.keys = list(keys)
        self.answers = []
        self.why = None
        self.ended = False

    def next(self, run):
        return self.keys[0] if self.keys and not self.why else None

    def note(self, run, key, answer):
        self.keys.remove(key)
        self.answers.append((key, answer))

    def stop(self, run, why):
        self.why = why

    def end(self, run):
        self.ended = True


@pytest.fixture
def slept(monkeypatch):
    """How long it was waited, without waiting."""
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


def test_a_run_redrives_each_at_its_pace_in_the_name_of_who_started_it(monkeypatch, slept):
    asked = []

    def redrive(claims, rules, key, *, actor, sink):
        asked.append((key, actor, sink))
        if key == "b":
            raise ClaimNotFoundError
        return RedriveAnswer.REDRIVEN

    monkeypatch.setattr("dashboard.pages.bulk_redrive.redrive_event", redrive)
    runs = FakeRuns("a", "b", "c")
    work(runs, RUN, object(), PROD_RULES)
    assert asked == [(key, "ann", "crm") for key in "abc"]
    assert runs.answers == [("a", "redriven"), ("b", "not to be found"), ("c", "redriven")]
    assert slept == pytest.approx([0, 0.1, 0.2], abs=0.05)
    assert runs.ended


def test_a_run_stops_where_dynamodb_does_not_answer(monkeypatch, slept):
    def redrive(*_, **__):
        raise StoreError("away")

    monkeypatch.setattr("dashboard.pages.bulk_redrive.redrive_event", redrive)
    runs = FakeRuns("a", "b")
    work(runs, RUN, object(), PROD_RULES)
    assert (runs.keys, runs.answers, runs.ended) == (["a", "b"], [], True)
    assert runs.why == "DynamoDB did not answer"
    assert len(slept) > 4


def test_what_is_left_of_a_run_takes_its_time():
    assert remaining(RUN, Progress(state="running", left=1_200, answers={})) == "2 minutes"
