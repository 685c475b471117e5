"""What the dashboard's pages show, without a browser and without a running Flower."""

import base64
import time
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import Application, create_signed_value

from dashboard.flower.auth import Guard, User, from_basic
from dashboard.flower.task_page import (
    actions_for,
    has_task,
    identify,
    key_of_arguments,
    may_change,
)
from dashboard.formatting import ago, duration
from dashboard.pages.event_detail import payload_of, recent_tasks
from dashboard.pages.retry import preview
from dashboard.timeline import generations, timeline
from tasks.claims import Call, Delivery, Outcome, Status
from tasks.clock import from_rfc3339
from tasks.errors import FieldError
from tasks.routing import TaskId, parse_task_id
from tasks.sinks import SINKS
from tests.support.samples import (
    EVENT_ID,
    RECEIVED_AT,
    TIME,
    delivered,
    failed,
    make_claim,
    make_record,
)

# ── Users ─────────────────────────────────────────────────────────────────────────────────────

OPERATORS = ["ann:pw:with:colons", "ünal:pässword"]
READERS = ["bob:pw"]


def basic(account, scheme="Basic"):
    return f"{scheme} {base64.b64encode(account.encode()).decode()}"


@pytest.mark.parametrize(
    ("header", "user"),
    [
        (basic("ann:pw:with:colons"), User("ann", is_operator=True)),
        (basic("ünal:pässword"), User("ünal", is_operator=True)),
        (basic("bob:pw", "basic"), User("bob", is_operator=False)),
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
def test_from_basic_finds_the_account_by_name_and_password(header, user):
    assert from_basic(header, OPERATORS, READERS) == user


def test_from_basic_finds_no_user_without_accounts():
    assert from_basic(basic(""), [], []) is None


# ── Task ids ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("task_id", "parsed"),
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
def test_parse_task_id_finds_the_event(task_id, parsed):
    assert parse_task_id(task_id, SINKS) == parsed


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
def test_key_of_arguments_reads_nothing_but_the_id(arguments, key):
    assert key_of_arguments(arguments) == key


def test_identify_uses_the_arguments_of_a_task_with_a_random_id():
    assert identify("deliver.crm", "a-uuid", "('an-id',)") == TaskId("an-id", "crm", "")
    assert identify("settle", "a-uuid", "('an-id',)") == TaskId("an-id", "settle", "")
    assert identify("another", "a-uuid", "('an-id',)") is None
    assert identify("deliver.crm", "a-uuid", "(…") is None
    assert identify(None, f"{EVENT_ID}.crm.1", None) == TaskId(EVENT_ID, "crm", "1")


@pytest.mark.parametrize(
    ("end", "part", "belongs"),
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
def test_an_event_has_the_tasks_of_its_dispatches(end, part, belongs):
    claim = make_claim(generation=2)
    assert has_task(claim, TaskId(EVENT_ID, part, end)) is belongs


def test_an_event_has_no_task_for_a_sink_it_does_not_go_to():
    assert not has_task(make_claim(deliveries={}), TaskId(EVENT_ID, "crm", "1"))


# ── Actions on the page of a task ─────────────────────────────────────────────────────────────

SETTLED = make_claim(
    status=Status.PARTIAL_FAILURE,
    holder=None,
    due_at=None,
    deliveries={"analytics": delivered(), "crm": failed(), "compliance": delivered()},
)
CRM = TaskId(EVENT_ID, "crm", "1")


@pytest.mark.parametrize("state", ["FAILURE", "REVOKED", None])
def test_retry_is_offered_after_a_delivery_that_failed(state):
    assert actions_for(CRM, state, SETTLED, is_operator=True).retry
    assert actions_for(CRM, state, None, is_operator=True).retry  # without DynamoDB
    assert not actions_for(CRM, state, SETTLED, is_operator=False).retry
    assert not actions_for(CRM, state, make_claim(), is_operator=True).retry  # in progress
    assert not actions_for(CRM._replace(part="analytics"), state, SETTLED, is_operator=True).retry
    assert not actions_for(CRM._replace(part="settle"), state, SETTLED, is_operator=True).retry
    assert not actions_for(None, state, None, is_operator=True).retry


@pytest.mark.parametrize("state", ["SUCCESS", "STARTED", "RECEIVED", "RETRY", "PENDING"])
def test_retry_is_not_offered_in_other_states(state):
    assert not actions_for(CRM, state, SETTLED, is_operator=True).retry


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
def test_running_tasks_can_be_stopped_where_that_is_safe(state, button):
    for task in (CRM, None):
        actions = actions_for(task, state, None, is_operator=True)
        assert (actions.stop, actions.no_stop_reason) == (button, None)
        assert actions_for(task, state, None, is_operator=False).stop is None
    for part in ("settle", "process"):
        actions = actions_for(TaskId(EVENT_ID, part, "1"), state, None, is_operator=True)
        assert actions.stop is None
        assert bool(actions.no_stop_reason) is bool(button)


THEN = from_rfc3339(RECEIVED_AT)
SETTLED_THEN = replace(SETTLED, processed_at=RECEIVED_AT)


@pytest.mark.parametrize(
    ("state", "claim", "seconds", "follows"),
    [
        (None, make_claim(), 3_600, True),  # in progress
        ("SUCCESS", make_claim(), 0, True),  # about to settle
        (None, SETTLED_THEN, 59, True),  # Flower hears of it later
        ("STARTED", SETTLED_THEN, 59, True),
        (None, SETTLED_THEN, 60, False),  # Flower has forgotten it, or will never hear of it
        ("SUCCESS", SETTLED_THEN, 0, False),
        (None, SETTLED, 0, False),  # it does not say when
    ],
)
def test_a_page_refreshes_while_its_task_may_change(state, claim, seconds, follows):
    assert may_change(state, claim, THEN + timedelta(seconds=seconds)) is follows


def test_a_delivery_in_progress_does_not_show_its_last_outcome():
    in_progress = replace(SETTLED, status=Status.PROCESSING, targets=["crm"])
    assert actions_for(CRM, None, in_progress, is_operator=True).in_progress
    assert not actions_for(CRM, None, SETTLED, is_operator=True).in_progress
    analytics = CRM._replace(part="analytics")
    assert not actions_for(analytics, None, in_progress, is_operator=True).in_progress


# ── Preview of a retry ────────────────────────────────────────────────────────────────────────


def test_preview_has_the_sinks_that_lack_the_event():
    assert preview(SETTLED, None).sinks == ("crm",)
    assert preview(SETTLED, "crm").sinks == ("crm",)
    both = make_claim(status=Status.FAILED, deliveries={"analytics": failed(), "crm": failed()})
    assert preview(both, None).sinks == ("analytics", "crm")
    assert preview(both, "crm").sinks == ("crm",)


def test_preview_of_an_invalid_event_has_no_sinks():
    ahead = preview(make_claim(status=Status.FAILED, deliveries={}, event_type=None), None)
    assert ahead.possible
    assert ahead.sinks == ()


@pytest.mark.parametrize(
    ("claim", "sink", "remark"),
    [
        (make_claim(), "crm", "in progress"),
        (SETTLED, "analytics", "analytics has the event"),
        (SETTLED, "fax", "does not go to fax"),
        (make_claim(status=Status.COMPLETED, deliveries={"crm": delivered()}), None, "Every sink"),
        (make_claim(status=Status.COMPLETED, deliveries={}), None, "Every sink"),
        (make_claim(status=Status.FAILED, deliveries={"gone": failed()}), None, "Every sink"),
    ],
)
def test_preview_explains_why_no_retry_is_possible(claim, sink, remark):
    ahead = preview(claim, sink)
    assert not ahead.possible
    assert remark in ahead.remark


# ── Timeline ──────────────────────────────────────────────────────────────────────────────────


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


def entries_of(claim):
    return [(entry.at, entry.text, entry.tone, entry.details) for entry in timeline(claim)]


def test_timeline_of_an_event_in_progress_ends_with_the_takeover():
    claim = make_claim(dispatched_at=1_769_860_801, due_at=1_769_861_401)
    assert entries_of(claim) == [
        (TIME, "occurred, according to its source", "plain", ()),
        (RECEIVED_AT, "received: created", "plain", ("for analytics, compliance, crm",)),
        ("2026-01-31T12:00:01.000Z", "being delivered to analytics, crm, compliance", "wait", ()),
        (
            "2026-01-31T12:10:01.000Z",
            "a sweep takes over if it has not settled by then",
            "plain",
            (),
        ),
    ]


def test_timeline_shows_the_actor_and_the_effect_of_a_retry():
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
    assert entries_of(done)[1:] == [
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
        (None, "delivered again, requested by ann", "plain", ()),
        (
            "2026-02-01T00:00:00.000Z",
            "settled: completed",
            "good",
            ("crm: delivered, 0 attempts",),  # the sample's attempts are of the same generation
        ),
    ]


def test_timeline_shows_each_call_before_its_result():
    refused = Call(1_769_860_829_000, 12, 503, "503 Service Unavailable")
    silent = Call(1_769_860_829_500, 1000, 0, "no answer within 1 s")
    accepted = Call(1_769_860_830_500, 7, 201)  # half a second after the event had settled
    crm = Delivery(outcome=Outcome.DELIVERED, at="2026-01-31T12:00:31Z", calls=(silent, accepted))
    analytics = Delivery(outcome=Outcome.FAILED, at=TIME, calls=(refused,))
    claim = replace(SETTLED, deliveries={"crm": crm, "analytics": analytics})
    entries = entries_of(replace(claim, audit=[record(claim)]))
    assert [(text, tone) for _, text, tone, _ in entries[2:]] == [
        ("analytics: 503 Service Unavailable, 12 ms", "bad"),
        ("crm: no answer within 1 s, 1000 ms", "bad"),
        ("settled: partial failure", "bad"),
        ("crm: 201, 7 ms", "good"),
    ]
    assert entries[2][0] == "2026-01-31T12:00:29.000Z"


def test_timeline_of_an_invalid_event_has_the_reasons():
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
    entries = entries_of(claim)
    assert [text for _, text, _, _ in entries] == [
        "received: an invalid event",
        "settled: failed",
    ]
    assert entries[1][3] == ("detail.channel: Must be one of: voice.",)


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (Outcome.PARKED, "parked until crm recovers"),
        (Outcome.FAILED, "next automatic retry: crm"),
    ],
)
def test_timeline_ends_with_what_comes_next(outcome, text):
    crm = Delivery(outcome=outcome, transient=True, at="2026-01-31T12:00:30.000Z")
    claim = make_claim(status=Status.FAILED, deliveries={"crm": crm})
    assert timeline(claim)[-1].text == text
    over = make_claim(status=Status.FAILED, deliveries={"crm": failed()}, due_at=None)
    assert timeline(over)[-1].text.startswith("received")


def test_generations_sorts_attempts_by_dispatch():
    assert generations(Delivery(tries={"10": 1, "2": 3, "1": 5})) == [(1, 5), (2, 3), (10, 1)]


def test_recent_tasks_are_looked_up_by_their_ids():
    def task(task_id, **more):
        fields = {"started": 2.0, "failed": None, "revoked": None, "runtime": None, "retries": None}
        return SimpleNamespace(uuid=task_id, state="SUCCESS", worker=None, **(fields | more))

    known = {
        f"{EVENT_ID}.crm.1": task(f"{EVENT_ID}.crm.1", failed=3.5),
        f"{EVENT_ID}.settle.2": task(f"{EVENT_ID}.settle.2", runtime=0.25, retries=1),
        f"{EVENT_ID}.crm.3": task(f"{EVENT_ID}.crm.3"),
    }
    found = list(recent_tasks(known, make_claim(generation=2)))
    assert [(task.part, task.seconds, task.retries) for task in found] == [
        ("crm", 1.5, 0),
        ("settle", 0.25, 1),
    ]
    assert list(recent_tasks({}, make_claim(generation=10**9))) == []


@pytest.mark.parametrize("payload", [b"", b"\xff", b"no json"])
def test_payload_of_shows_what_is_no_envelope(payload):
    assert payload_of(make_claim(payload=payload))


# ── Formatting ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("seconds", "text"),
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
def test_duration_has_one_unit(seconds, text):
    assert duration(seconds) == text


def test_ago_is_relative_to_now():
    moment = from_rfc3339("2026-01-31T12:00:00.000Z")
    assert ago("2026-01-31T11:57:00.000Z", moment) == "3 minutes ago"
    assert ago("2026-01-31T12:00:30.000Z", moment) == "in 30 seconds"
    assert ago("2026-01-31T12:00:00.400Z", moment) == "just now"


# ── Sessions ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("hours", "name"), [(11.9, "ann@example.com"), (12.1, None)])
def test_a_login_by_oauth_expires_after_twelve_hours(hours, name):
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
    user = Guard(application, request).get_current_user()
    assert (user and user.name) == name
