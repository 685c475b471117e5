"""What the dashboard's pages say, without a browser and without Flower."""

import base64
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import Application, create_signed_value

from dashboard.flower.auth import Guard, Person, from_basic
from dashboard.flower.task_page import (
    TaskId,
    desk_of,
    event_of_arguments,
    is_of,
    parse_task_id,
    task_of,
)
from dashboard.formatting import ago, duration
from dashboard.pages.event_detail import payload_of, remembered
from dashboard.pages.retry import prospect, task_after
from dashboard.timeline import generations, timeline
from tasks.claims import Call, Delivery, Outcome, Status
from tasks.claims.audit import make_record
from tasks.clock import from_rfc3339
from tasks.errors import FieldError
from tests.support.samples import EVENT_ID, RECEIVED_AT, TIME, delivered, failed, make_claim

# ── Who is there ──────────────────────────────────────────────────────────────────────────────

OPERATORS = ["ann:pw:with:colons", "ünal:pässword"]
READERS = ["bob:pw"]


def basic(account, scheme="Basic"):
    return f"{scheme} {base64.b64encode(account.encode()).decode()}"


@pytest.mark.parametrize(
    ("header", "person"),
    [
        (basic("ann:pw:with:colons"), Person("ann", may_act=True)),
        (basic("ünal:pässword"), Person("ünal", may_act=True)),
        (basic("bob:pw", "basic"), Person("bob", may_act=False)),
        (basic("ann:pw"), None),
        (basic("ann"), None),
        (basic(""), None),
        (basic("bob:pw", "Bearer"), None),
        ("Basic", None),
        ("Basic not-base64!", None),
        ("Basic /w==", None),
        ("", None),
    ],
)
def test_an_account_is_known_by_name_and_password(header, person):
    assert from_basic(header, OPERATORS, READERS) == person


def test_without_accounts_nobody_is_known():
    assert from_basic(basic(""), [], []) is None


# ── Which task is whose ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("task_id", "told"),
    [
        (f"{EVENT_ID}.crm.1", TaskId(EVENT_ID, "crm", "1")),
        (f"{EVENT_ID}@june.crm.12", TaskId(f"{EVENT_ID}@june", "crm", "12")),
        ("a.b.settle.3", TaskId("a.b", "settle", "3")),
        ("a.crm.1.crm.2", TaskId("a.crm.1", "crm", "2")),
        (f"{EVENT_ID}.process.0a1b2c3d", TaskId(EVENT_ID, "process", "0a1b2c3d")),
        (EVENT_ID, None),
        (f"{EVENT_ID}.fax.1", None),
        (f"{EVENT_ID}.crm.x", None),
        (".crm.1", None),
        ("", None),
    ],
)
def test_a_task_id_tells_its_event(task_id, told):
    assert parse_task_id(task_id) == told


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ("('an-id',)", "an-id"),
        ("['an-id', {'event': {}}]", "an-id"),
        ("()", None),
        ("(1,)", None),
        ("'an-id'", None),
        ("('an-id', {'event': ...", None),
        ("__import__('os')", None),
        ("(" * 10_000, None),
        (None, None),
        ("", None),
    ],
)
def test_of_arguments_nothing_but_the_id_is_read(arguments, key):
    assert event_of_arguments(arguments) == key


def test_a_delivery_started_by_hand_is_told_by_its_name_and_argument():
    assert task_of("deliver.crm", "a-uuid", "('an-id',)") == TaskId("an-id", "crm", "")
    assert task_of("settle", "a-uuid", "('an-id',)") == TaskId("an-id", "settle", "")
    assert task_of("another", "a-uuid", "('an-id',)") is None
    assert task_of("deliver.crm", "a-uuid", "(…") is None
    assert task_of(None, f"{EVENT_ID}.crm.1", None) == TaskId(EVENT_ID, "crm", "1")


@pytest.mark.parametrize(
    ("end", "part", "is_its_own"),
    [
        ("1", "crm", True),
        ("2", "crm", True),
        ("3", "crm", False),
        ("0", "crm", False),
        ("1" * 5000, "crm", False),
        ("1", "settle", True),
        ("0a1b2c3d", "process", True),
        ("0a1b2c3d", "crm", False),
    ],
)
def test_an_event_has_the_tasks_of_its_dispatches(end, part, is_its_own):
    claim = make_claim(generation=2)
    assert is_of(TaskId(EVENT_ID, part, end), claim) is is_its_own


def test_an_event_has_no_task_for_a_sink_it_does_not_go_to():
    assert not is_of(TaskId(EVENT_ID, "crm", "1"), make_claim(deliveries={}))


# ── What is offered on a task's page ──────────────────────────────────────────────────────────

SETTLED = make_claim(
    status=Status.PARTIAL_FAILURE,
    holder=None,
    due_at=None,
    deliveries={"analytics": delivered(), "crm": failed(), "compliance": delivered()},
)
CRM = TaskId(EVENT_ID, "crm", "1")


@pytest.mark.parametrize("state", ["FAILURE", "REVOKED", None])
def test_retry_is_offered_where_a_delivery_is_over_and_lacking(state):
    assert desk_of(CRM, state, SETTLED, may_act=True).retry
    assert desk_of(CRM, state, None, may_act=True).retry  # DynamoDB is away: it will be asked then
    assert not desk_of(CRM, state, SETTLED, may_act=False).retry
    assert not desk_of(CRM, state, make_claim(), may_act=True).retry  # under way
    assert not desk_of(CRM._replace(part="analytics"), state, SETTLED, may_act=True).retry
    assert not desk_of(CRM._replace(part="settle"), state, SETTLED, may_act=True).retry
    assert not desk_of(None, state, None, may_act=True).retry


@pytest.mark.parametrize("state", ["SUCCESS", "STARTED", "RECEIVED", "RETRY", "PENDING"])
def test_retry_is_not_offered_before(state):
    assert not desk_of(CRM, state, SETTLED, may_act=True).retry


@pytest.mark.parametrize(
    ("state", "button"),
    [
        ("STARTED", "terminate"),
        ("RECEIVED", "revoke"),
        ("RETRY", "revoke"),
        ("SUCCESS", None),
        (None, None),
    ],
)
def test_what_runs_can_be_stopped_unless_that_does_harm(state, button):
    for told in (CRM, None):
        desk = desk_of(told, state, None, may_act=True)
        assert (desk.stop, desk.why_not) == (button, None)
        assert desk_of(told, state, None, may_act=False).stop is None
    for part in ("settle", "process"):
        desk = desk_of(TaskId(EVENT_ID, part, "1"), state, None, may_act=True)
        assert desk.stop is None
        assert bool(desk.why_not) is bool(button)


# ── What a retry would do ─────────────────────────────────────────────────────────────────────


def test_a_retry_is_for_the_sinks_that_lack_the_event():
    assert prospect(SETTLED, None).sinks == ("crm",)
    assert prospect(SETTLED, "crm").sinks == ("crm",)
    both = make_claim(status=Status.FAILED, deliveries={"analytics": failed(), "crm": failed()})
    assert prospect(both, None).sinks == ("analytics", "crm")
    assert prospect(both, "crm").sinks == ("crm",)


def test_a_retry_of_an_invalid_event_is_for_all_of_it():
    ahead = prospect(make_claim(status=Status.FAILED, deliveries={}, event_type=None), None)
    assert ahead.possible
    assert ahead.sinks == ()


@pytest.mark.parametrize(
    ("claim", "sink", "why"),
    [
        (make_claim(), "crm", "being worked on"),
        (SETTLED, "analytics", "analytics has the event"),
        (SETTLED, "fax", "does not go to fax"),
        (make_claim(status=Status.COMPLETED, deliveries={"crm": delivered()}), None, "Every sink"),
        (make_claim(status=Status.COMPLETED, deliveries={}), None, "Every sink"),
        (make_claim(status=Status.FAILED, deliveries={"gone": failed()}), None, "Every sink"),
    ],
)
def test_where_there_is_nothing_to_retry_it_is_said_why(claim, sink, why):
    ahead = prospect(claim, sink)
    assert not ahead.possible
    assert why in ahead.remarks[0]


def test_the_task_of_a_retry_is_that_of_the_present_dispatch():
    assert task_after(make_claim(generation=3), "crm") == f"{EVENT_ID}.crm.3"


# ── The life of an event ──────────────────────────────────────────────────────────────────────


def record(claim, previous=(0, None), at="2026-01-31T12:00:30.000Z", **more):
    return make_record(
        event_id=claim.id,
        interaction_id=claim.interaction_id,
        event_type=claim.event_type,
        received_at=claim.received_at,
        processed_at=at,
        status=claim.status,
        deliveries=claim.deliveries,
        previous=previous,
        **more,
    )


def told(claim):
    return [(entry.at, entry.what, entry.tone, entry.details) for entry in timeline(claim)]


def test_of_an_event_under_way_it_is_told_who_takes_over_when():
    claim = make_claim(dispatched_at=1_769_860_801, due_at=1_769_861_401)
    assert told(claim) == [
        (TIME, "happened, as its source says", "plain", ()),
        (RECEIVED_AT, "received: created", "plain", ("for analytics, compliance, crm",)),
        ("2026-01-31T12:00:01.000Z", "on its way to analytics, crm, compliance", "wait", ()),
        (
            "2026-01-31T12:10:01.000Z",
            "a sweep takes over, if it has not settled by then",
            "plain",
            (),
        ),
    ]


def test_a_retry_is_told_with_its_actor_and_what_it_changed():
    first = record(SETTLED)
    now_delivered = {**SETTLED.deliveries, "crm": failed().merge(delivered(at="2026-02-01"))}
    done = make_claim(status=Status.COMPLETED, deliveries=now_delivered)
    second = record(done, (1, first["lineageHash"]), "2026-02-01T00:00:00.000Z", actor="ann")
    done = make_claim(
        status=Status.COMPLETED,
        deliveries=now_delivered,
        audit=[first, second],
        due_at=None,
        event_time=None,
    )
    assert told(done)[1:] == [
        (
            "2026-01-31T12:00:30.000Z",
            "settled: partial failure",
            "bad",
            (
                "analytics: delivered, 1 attempt",
                "compliance: delivered, 1 attempt",
                "crm: 500 Internal Server Error, 5 attempts",
            ),
        ),
        (None, "sent again, as ann asked", "plain", ()),
        (
            "2026-02-01T00:00:00.000Z",
            "settled: completed",
            "good",
            ("crm: delivered, 0 attempts",),  # the sample's attempts are of the same generation
        ),
    ]


def test_each_call_is_told_before_what_it_led_to():
    refused = Call(1_769_860_829_000, 12, 503, "503 Service Unavailable")
    unheard = Call(1_769_860_829_500, 1000, 0, "no answer within 1 s")
    taken = Call(1_769_860_830_500, 7, 201)  # half a second after the event had settled
    crm = Delivery(outcome=Outcome.DELIVERED, at="2026-01-31T12:00:31Z", calls=(unheard, taken))
    analytics = Delivery(outcome=Outcome.FAILED, at=TIME, calls=(refused,))
    claim = replace(SETTLED, deliveries={"crm": crm, "analytics": analytics})
    entries = told(replace(claim, audit=[record(claim)]))
    assert [(what, tone) for _, what, tone, _ in entries[2:]] == [
        ("analytics: 503 Service Unavailable, 12 ms", "bad"),
        ("crm: no answer within 1 s, 1000 ms", "bad"),
        ("settled: partial failure", "bad"),
        ("crm: 201, 7 ms", "good"),
    ]
    assert entries[2][0] == "2026-01-31T12:00:29.000Z"


def test_an_invalid_event_tells_its_reasons():
    claim = make_claim(status=Status.FAILED, deliveries={}, event_type=None, due_at=None)
    errors = [FieldError("detail.channel", "Must be one of: voice.")]
    claim = make_claim(
        status=Status.FAILED,
        deliveries={},
        event_type=None,
        due_at=None,
        event_time="yesterday",
        audit=[record(claim, errors=errors)],
    )
    entries = told(claim)
    assert [what for _, what, _, _ in entries] == [
        "received: an event that is not valid",
        "settled: failed",
    ]
    assert entries[1][3] == ("detail.channel: Must be one of: voice.",)


@pytest.mark.parametrize(
    ("outcome", "what"),
    [
        (Outcome.PARKED, "waits until crm has recovered"),
        (Outcome.FAILED, "is tried again by itself: crm"),
    ],
)
def test_what_comes_next_is_told(outcome, what):
    crm = Delivery(outcome=outcome, transient=True, at="2026-01-31T12:00:30.000Z")
    claim = make_claim(status=Status.FAILED, deliveries={"crm": crm})
    assert timeline(claim)[-1].what == what
    over = make_claim(status=Status.FAILED, deliveries={"crm": failed()}, due_at=None)
    assert timeline(over)[-1].what.startswith("received")


def test_attempts_are_told_by_dispatch():
    assert generations(Delivery(tries={"10": 1, "2": 3, "1": 5})) == [(1, 5), (2, 3), (10, 1)]


def test_flowers_memory_is_asked_for_what_the_ids_must_be():
    def task(task_id, **more):
        fields = {"started": 2.0, "failed": None, "revoked": None, "runtime": None, "retries": None}
        return SimpleNamespace(uuid=task_id, state="SUCCESS", worker=None, **(fields | more))

    known = {
        f"{EVENT_ID}.crm.1": task(f"{EVENT_ID}.crm.1", failed=3.5),
        f"{EVENT_ID}.settle.2": task(f"{EVENT_ID}.settle.2", runtime=0.25, retries=1),
        f"{EVENT_ID}.crm.3": task(f"{EVENT_ID}.crm.3"),
    }
    found = list(remembered(known, make_claim(generation=2)))
    assert [(task.part, task.seconds, task.retries) for task in found] == [
        ("crm", 1.5, 0),
        ("settle", 0.25, 1),
    ]
    assert list(remembered({}, make_claim(generation=10**9))) == []


@pytest.mark.parametrize("payload", [b"", b"\xff", b"no json"])
def test_a_payload_that_is_no_envelope_can_be_looked_at(payload):
    assert payload_of(make_claim(payload=payload))


# ── Words ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 ms"),
        (-5, "0 ms"),
        (0.25, "250 ms"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "1 minute"),
        (7_200, "2 hours"),
        (200_000, "2 days"),
    ],
)
def test_a_duration_has_one_unit(seconds, words):
    assert duration(seconds) == words


def test_a_time_is_told_from_now():
    moment = from_rfc3339("2026-01-31T12:00:00.000Z")
    assert ago("2026-01-31T11:57:00.000Z", moment) == "3 minutes ago"
    assert ago("2026-01-31T12:00:30.000Z", moment) == "in 30 seconds"
    assert ago("2026-01-31T12:00:00.400Z", moment) == "just now"


# ── Sessions ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("hours", "name"), [(11.9, "ann@example.com"), (12.1, None)])
def test_a_login_by_oauth_lasts_twelve_hours(hours, name):
    signed = create_signed_value(
        "secret", "user", "ann@example.com", clock=lambda: time.time() - hours * 3_600
    )
    options = SimpleNamespace(auth="ann@example.com", basic_auth=None, read_only=False)
    application = Application(cookie_secret="secret")
    application.options = options
    request = HTTPServerRequest(
        start_line=RequestStartLine("GET", "/", "HTTP/1.1"),
        headers=HTTPHeaders({"Host": "flower", "Cookie": f"user={signed.decode()}"}),
        connection=SimpleNamespace(set_close_callback=lambda _: None),
    )
    person = Guard(application, request).get_current_user()
    assert (person and person.name) == name
