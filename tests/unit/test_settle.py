import json
import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.claims import Claim, ClaimSnapshot, Delivery, Outcome, Status
from tasks.claims.audit import verify_chain, verify_claim
from tasks.claims.intake import read_event
from tasks.claims.outcomes import merge, status_of
from tasks.claims.settlement import MAX_CONTENTIONS, settle_claim
from tasks.clock import now, to_rfc3339
from tasks.errors import ClaimNotFoundError, StoreError
from tasks.events import payload_hash
from tests.support.samples import (
    EVENT_ID,
    PROD_RULES,
    RECEIVED_AT,
    delivered,
    failed,
    make_claim,
    make_envelope,
    report,
)
from tests.support.strategies import rounds


class OneClaim:
    """The table with one item in it: a write goes through only at the version it was meant for.

    ``meddle`` is what somebody else does to the claim just before each write.
    """

    def __init__(self, claim: Claim | None, meddle=lambda claim: claim) -> None:
        self.claim = claim
        self.reads = 0
        self.writes = 0
        self.loses_answers = False
        self.retry = None
        self._meddle = meddle

    def get(self, _key):
        self.reads += 1
        return self.claim

    def settle(self, head, deliveries, status, record, retry):
        if self.claim is None:
            raise ClaimNotFoundError("no claim")
        self.claim = self._meddle(self.claim)
        if head.version != self.claim.version:
            return self.claim.snapshot
        self.writes += 1
        self.retry = retry
        self.claim = replace(
            self.claim,
            version=self.claim.version + 1,
            deliveries=deliveries,
            status=status,
        )
        if status is not Status.PROCESSING:
            self.claim = replace(self.claim, holder=None, targets=None, actor=None)
        if record:
            self.claim = replace(
                self.claim,
                processed_at=record["processedAt"],
                audit=[*self.claim.audit, record],
            )
        # The client tries again when an answer is lost, and its second try is refused.
        return self.claim.snapshot if self.loses_answers else None


ALL_DELIVERED = [report(sink) for sink in ("analytics", "crm", "compliance")]
CRM_FAILED = [report("analytics"), report("crm", Outcome.FAILED), report("compliance")]
ALL_FAILED = [
    report(sink, outcome)
    for sink, outcome in (
        ("analytics", Outcome.FAILED),
        ("crm", Outcome.REVOKED),
        ("compliance", Outcome.PARKED),
    )
]


def outcomes_of(claim):
    return {sink: delivery.outcome.value for sink, delivery in claim.deliveries.items()}


@pytest.mark.parametrize(
    ("reports", "status"),
    [
        pytest.param(ALL_DELIVERED, Status.COMPLETED, id="all-delivered"),
        pytest.param(CRM_FAILED, Status.PARTIAL_FAILURE, id="one-failed"),
        pytest.param(ALL_FAILED, Status.FAILED, id="failed-revoked-parked"),
        pytest.param(ALL_DELIVERED[:2], Status.PROCESSING, id="one-not-heard-of"),
    ],
)
def test_one_write_states_what_the_reports_come_to(reports, status):
    table = OneClaim(make_claim())
    assert settle_claim(table, EVENT_ID, table.claim.snapshot, reports, 1) is status
    assert table.claim.status is status
    assert table.claim.version == 2
    assert (table.reads, table.writes) == (0, 1)
    (record,) = table.claim.audit
    assert record["status"] == status.value
    assert record["eventId"] == EVENT_ID
    assert record["interactionId"] == "interaction-1"
    assert record["receivedAt"] == RECEIVED_AT
    assert verify_chain(table.claim.audit) == []


def test_with_the_key_alone_the_claim_is_read():
    table = OneClaim(make_claim())
    assert settle_claim(table, EVENT_ID, None, ALL_DELIVERED, 1) is Status.COMPLETED
    assert (table.reads, table.writes) == (1, 1)


def test_an_unknown_key_is_told():
    with pytest.raises(ClaimNotFoundError, match=EVENT_ID):
        settle_claim(OneClaim(None), EVENT_ID, None, ALL_DELIVERED, 1)


def test_a_claim_that_went_away_is_told():
    with pytest.raises(ClaimNotFoundError):
        settle_claim(OneClaim(None), EVENT_ID, make_claim().snapshot, ALL_DELIVERED, 1)


def test_nothing_new_writes_nothing():
    table = OneClaim(make_claim())
    settle_claim(table, EVENT_ID, None, CRM_FAILED, 1)
    settled = table.claim
    assert settle_claim(table, EVENT_ID, None, CRM_FAILED, 1) is Status.PARTIAL_FAILURE
    assert settle_claim(table, EVENT_ID, settled.snapshot, [], 1) is Status.PARTIAL_FAILURE
    assert table.claim == settled
    assert table.writes == 1


def test_settling_twice_from_the_same_message_writes_once():
    table = OneClaim(make_claim())
    head = table.claim.snapshot
    for _ in range(2):
        assert settle_claim(table, EVENT_ID, head, CRM_FAILED, 1) is Status.PARTIAL_FAILURE
    assert table.writes == 1


def test_a_redrive_appends_a_revision_to_the_chain():
    table = OneClaim(make_claim())
    settle_claim(table, EVENT_ID, None, CRM_FAILED, 1)
    assert settle_claim(table, EVENT_ID, None, [report("crm")], 2) is Status.COMPLETED
    first, second = table.claim.audit
    assert second["previousHash"] == first["lineageHash"]
    assert [record["revision"] for record in (first, second)] == [1, 2]
    assert table.claim.deliveries["crm"].attempts == 2
    assert verify_chain(table.claim.audit) == []


def test_a_refused_write_is_merged_into_the_current_claim():
    table = OneClaim(make_claim())
    stale = table.claim.snapshot
    settle_claim(table, EVENT_ID, None, [report("analytics"), report("crm")], 1)
    assert settle_claim(table, EVENT_ID, stale, [report("compliance")], 1) is Status.COMPLETED
    assert set(outcomes_of(table.claim).values()) == {"delivered"}
    assert table.reads == 1
    assert verify_chain(table.claim.audit) == []
    assert len(table.claim.audit) == 2


def reopened(claim, **changes):
    """The claim as a redrive for the CRM has it."""
    return replace(
        claim,
        **{
            "status": Status.PROCESSING,
            "version": claim.version + 1,
            "generation": claim.generation + 1,
            "targets": ["crm"],
            "actor": "zoe@desk",
            **changes,
        },
    )


def test_a_late_settle_does_not_settle_a_later_dispatch():
    table = OneClaim(make_claim())
    first = table.claim.snapshot
    settle_claim(table, EVENT_ID, first, CRM_FAILED, 1)
    table.claim = reopened(table.claim)

    before = table.claim

    settle_claim(table, EVENT_ID, first, CRM_FAILED, 1)
    settle_claim(table, EVENT_ID, None, CRM_FAILED, 1)
    assert settle_claim(table, EVENT_ID, None, [], 0) is Status.PROCESSING, "by hand"
    assert table.claim == before

    assert settle_claim(table, EVENT_ID, None, [report("crm")], 2) is Status.COMPLETED
    assert table.claim.audit[-1]["actor"] == "zoe@desk"
    assert verify_chain(table.claim.audit) == []


@pytest.mark.parametrize("reports", [ALL_DELIVERED, CRM_FAILED, ALL_FAILED])
def test_a_late_settle_leaves_the_claim_to_the_later_dispatch(reports):
    table = OneClaim(make_claim())
    first = table.claim.snapshot
    table.claim = replace(table.claim, version=2, generation=2, holder="sweep", targets=["crm"])
    assert settle_claim(table, EVENT_ID, first, reports, 1) is Status.PROCESSING
    assert table.claim.status is Status.PROCESSING
    assert (table.claim.holder, table.claim.targets) == ("sweep", ["crm"])
    assert outcomes_of(table.claim) == {r.sink: r.outcome.value for r in reports}
    assert table.claim.audit == []  # the first record is that of the first final status

    status = settle_claim(table, EVENT_ID, None, [report("crm")], 2)
    assert status is status_of(table.claim.deliveries.values()) is not Status.PROCESSING
    (record,) = table.claim.audit
    assert record["status"] == status.value


@pytest.mark.parametrize("later", [ALL_DELIVERED, CRM_FAILED, []])
def test_newest_record_states_the_final_status_after_late_settle(later):
    table = OneClaim(make_claim(payload_sha256=payload_hash(make_claim().payload)))
    first = table.claim.snapshot
    settle_claim(table, EVENT_ID, first, CRM_FAILED, 1)
    table.claim = replace(table.claim, status=Status.PROCESSING, version=7, generation=2)
    late = [replace(report, at="2026-01-31T13:00:00.000Z") for report in ALL_DELIVERED]
    assert settle_claim(table, EVENT_ID, first, late, 1) is Status.PROCESSING

    assert settle_claim(table, EVENT_ID, None, later, 2) is Status.COMPLETED
    assert table.claim.audit[-1]["status"] == "completed"
    assert verify_claim(table.claim) == []


def test_a_late_settle_in_a_redrive_is_recorded_without_actor():
    table = OneClaim(make_claim())
    settle_claim(table, EVENT_ID, None, ALL_FAILED, 1)
    table.claim = replace(
        table.claim, status=Status.PROCESSING, version=5, generation=3, actor="ann", targets=["crm"]
    )
    late = [report("compliance", at="2026-01-31T13:00:00.000Z")]
    assert settle_claim(table, EVENT_ID, None, late, 2) is Status.PROCESSING
    assert (table.claim.actor, table.claim.targets) == ("ann", ["crm"])
    record = table.claim.audit[-1]
    assert (record["status"], record.get("actor")) == ("partial_failure", None)

    later = [report("crm", at="2026-01-31T13:00:01.000Z")]
    assert settle_claim(table, EVENT_ID, None, later, 3) is Status.PARTIAL_FAILURE
    assert table.claim.audit[-1]["actor"] == "ann"
    assert verify_chain(table.claim.audit) == []


def test_a_late_failure_takes_nothing_back():
    table = OneClaim(make_claim())
    stale = table.claim.snapshot
    settle_claim(table, EVENT_ID, None, ALL_DELIVERED, 1)
    late = [report("crm", Outcome.FAILED, at="2026-01-31T13:00:00.000Z")]
    assert settle_claim(table, EVENT_ID, stale, late, 1) is Status.COMPLETED
    assert outcomes_of(table.claim)["crm"] == "delivered"
    assert table.writes == 1


@pytest.mark.parametrize("reports", [ALL_DELIVERED, CRM_FAILED, ALL_FAILED])
def test_a_write_whose_answer_was_lost_is_known_as_ones_own(reports, caplog):
    table = OneClaim(make_claim())
    table.loses_answers = True
    with caplog.at_level(logging.INFO, "audit"):
        status = settle_claim(table, EVENT_ID, table.claim.snapshot, reports, 1)
    assert status is table.claim.status
    assert table.writes == 1
    assert logged(caplog) == table.claim.audit


@pytest.mark.parametrize("loses_answers", [False, True])
def test_the_lag_is_counted_at_the_first_final_status_alone(monkeypatch, loses_answers):
    lags = []
    counters = SimpleNamespace(add=lambda *_, **__: None, lag=lags.append)
    monkeypatch.setattr("tasks.claims.settlement.COUNTERS", counters)
    table = OneClaim(make_claim())
    table.loses_answers = loses_answers
    settle_claim(table, EVENT_ID, table.claim.snapshot, CRM_FAILED, 1)
    assert lags == [table.claim.audit[0]["lagMs"]]
    settle_claim(table, EVENT_ID, None, [report("crm", at="2026-01-31T13:00:00.000Z")], 1)
    assert table.claim.status is Status.COMPLETED
    assert len(lags) == 1


def logged(caplog):
    return [json.loads(line.getMessage()) for line in caplog.records if line.name == "audit"]


def test_what_is_written_is_logged_once(caplog):
    table = OneClaim(make_claim())
    with caplog.at_level(logging.INFO, "audit"):
        settle_claim(table, EVENT_ID, None, CRM_FAILED, 1)
        settle_claim(table, EVENT_ID, None, CRM_FAILED, 1)
    assert logged(caplog) == table.claim.audit


def someone_is_faster(times):
    """Another settles the claim ``times`` times, each just before our write."""
    left = iter(range(times))

    def meddle(claim):
        if next(left, None) is None:
            return claim
        return replace(claim, version=claim.version + 1)

    return meddle


def test_others_may_be_faster_a_few_times():
    table = OneClaim(make_claim(), someone_is_faster(MAX_CONTENTIONS - 1))
    assert settle_claim(table, EVENT_ID, None, ALL_DELIVERED, 1) is Status.COMPLETED
    assert table.writes == 1


def test_others_that_are_always_faster_are_a_reason_to_back_off():
    table = OneClaim(make_claim(), someone_is_faster(10**6))
    with pytest.raises(StoreError, match=f"{EVENT_ID} changed {MAX_CONTENTIONS} times"):
        settle_claim(table, EVENT_ID, None, ALL_DELIVERED, 1)
    assert table.writes == 0


def test_the_record_notes_what_was_noted_when_the_event_was_read():
    noted = "lifecycleStage routed taken over status queued"
    table = OneClaim(make_claim(notes=[noted]))
    settle_claim(table, EVENT_ID, None, ALL_DELIVERED, 1)
    assert table.claim.audit[0]["notes"] == [noted]


def test_the_record_notes_what_a_delivery_noted():
    table = OneClaim(make_claim(notes=["read"]))
    noted = [
        report(r.sink, note="without context" if r.sink == "crm" else None) for r in ALL_DELIVERED
    ]
    settle_claim(table, EVENT_ID, None, noted, 1)
    assert table.claim.audit[0]["notes"] == ["read", "crm: without context"]
    settle_claim(table, EVENT_ID, None, noted, 1)
    assert len(table.claim.audit) == 1


def test_an_event_that_no_sink_wants_is_completed():
    table = OneClaim(make_claim(deliveries={}))
    assert settle_claim(table, EVENT_ID, None, [], 1) is Status.COMPLETED
    assert table.claim.status is Status.COMPLETED


def test_an_invalid_event_stays_failed_whoever_settles_it():
    claim, _ = read_event(PROD_RULES, EVENT_ID, make_envelope(detail={}), RECEIVED_AT, "worker-a")
    table = OneClaim(claim)
    assert settle_claim(table, EVENT_ID, None, [], 0) is Status.FAILED
    assert table.claim == claim


@given(st.lists(rounds, min_size=1, max_size=5), st.data())
def test_settling_late_twice_and_in_any_order_gives_one_claim(history, data):
    again = data.draw(st.lists(st.sampled_from(history), max_size=2))
    table = OneClaim(make_claim())
    first_seen = table.claim.snapshot
    for reports, generation in data.draw(st.permutations(history + again)):
        head = data.draw(st.sampled_from([None, first_seen, table.claim.snapshot]))
        table.loses_answers = data.draw(st.booleans())
        settle_claim(table, EVENT_ID, head, reports, generation)
    expected = first_seen.deliveries
    for reports, generation in history:
        expected = merge(expected, reports, generation)
    assert table.claim.deliveries == expected
    assert table.claim.status is status_of(expected.values())
    assert verify_chain(table.claim.audit) == []
    assert bool(table.writes) == bool(table.claim.audit)
    assert len(table.claim.audit) <= table.writes
    said = table.claim.audit[-1]["downstreamResults"] if table.writes else []
    stands = {sink: d.error for sink, d in table.claim.deliveries.items()}
    assert {result["service"]: result.get("error") for result in said} == (
        stands if table.writes else {}
    )


@given(st.lists(rounds, max_size=3))
def test_a_head_comes_back_from_its_message(history):
    table = OneClaim(make_claim())
    for reports, generation in history:
        settle_claim(table, EVENT_ID, None, reports, generation)
    travelled = json.loads(json.dumps(table.claim.snapshot.to_json()))
    assert ClaimSnapshot.from_json(travelled) == table.claim.snapshot


def test_the_head_of_a_claim_is_at_its_newest_record():
    assert (make_claim().snapshot.revision, make_claim().snapshot.lineage_hash) == (0, None)
    table = OneClaim(make_claim())
    settle_claim(table, EVENT_ID, None, CRM_FAILED, 1)
    head = table.claim.snapshot
    assert (head.revision, head.lineage_hash) == (1, table.claim.audit[0]["lineageHash"])


def test_a_claim_names_the_sinks_that_lack_it():
    claim = make_claim(deliveries={"analytics": delivered(), "crm": failed(), "x": Delivery()})
    assert claim.undelivered == ["crm", "x"]


# ── What is left to do, and what is worth a record ────────────────────────────────────────────


def transient(sink, outcome=Outcome.FAILED, **changes):
    return report(
        sink, outcome, **({"error": "503 Service Unavailable", "transient": True} | changes)
    )


def taken_over(claim):
    """The claim as the schedule has brought it up again."""
    return replace(
        claim,
        status=Status.PROCESSING,
        version=claim.version + 1,
        generation=claim.generation + 1,
        redrives=claim.redrives + 1,
    )


def fresh_claim(**changes):
    return make_claim(received_at=to_rfc3339(now()), **changes)


def half_delivered(*last, **changes):
    """A table whose event every sink has but those of the reports."""
    table = OneClaim(fresh_claim(**changes))
    lacking = {one.sink for one in last}
    others = [one for one in ALL_DELIVERED if one.sink not in lacking]
    settle_claim(table, EVENT_ID, None, [*others, *last], 1)
    return table


@pytest.mark.parametrize(
    ("last", "due"),
    [
        ([transient("crm")], True),
        ([transient("crm", Outcome.PARKED)], True),
        ([report("crm", Outcome.FAILED)], False),
        ([report("crm", Outcome.FAILED), transient("analytics")], True),
        ([report("crm", Outcome.REVOKED)], False),
        ([report("crm")], False),
    ],
    ids=["failing", "parked", "refused", "refused-and-failing", "revoked", "delivered"],
)
def test_what_may_yet_get_through_leaves_a_settled_event_due(last, due):
    table = half_delivered(*last)
    assert table.claim.status is not Status.PROCESSING
    assert (table.retry is not None) == due


def test_a_round_that_ends_as_the_one_before_appends_no_record(caplog):
    table = half_delivered(transient("crm"))
    records = list(table.claim.audit)
    caplog.clear()
    for generation in (2, 3):
        table.claim = taken_over(table.claim)
        later = transient("crm", at=f"2026-01-31T1{generation}:00:00.000Z", attempts=5)
        with caplog.at_level(logging.INFO, "audit"):
            settle_claim(table, EVENT_ID, None, [later], generation)
    assert table.claim.status is Status.PARTIAL_FAILURE
    assert table.claim.deliveries["crm"].attempts == 11
    assert table.claim.audit == records
    assert logged(caplog) == []
    assert table.retry is not None


@pytest.mark.parametrize(
    "changed",
    [
        {"error": "500 Internal Server Error"},
        {"outcome": Outcome.PARKED, "error": "parked"},
        {"outcome": Outcome.DELIVERED, "error": None, "transient": False},
    ],
    ids=["another-error", "parked", "delivered"],
)
def test_a_round_that_ends_otherwise_appends_a_record(changed):
    table = half_delivered(transient("crm"))
    table.claim = taken_over(table.claim)
    later = replace(transient("crm", at="2026-01-31T13:00:00.000Z"), **changed)
    settle_claim(table, EVENT_ID, None, [later], 2)
    assert len(table.claim.audit) == 2
    assert verify_chain(table.claim.audit) == []


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.PARKED])
def test_what_is_past_its_age_limit_is_given_up_and_noted_once(outcome):
    table = OneClaim(make_claim())  # received long ago
    history = [report("analytics"), transient("crm", outcome), transient("compliance", outcome)]
    settle_claim(table, EVENT_ID, None, history, 1)
    settle_claim(table, EVENT_ID, None, history, 1)
    assert table.retry is None
    (record,) = table.claim.audit
    assert record["notes"] == ["given up, past its age limit: crm, compliance"]


def test_giving_up_is_noted_even_if_no_outcome_changed():
    table = half_delivered(transient("crm"))
    table.claim = taken_over(replace(table.claim, received_at=RECEIVED_AT))
    settle_claim(table, EVENT_ID, None, [transient("crm", at="2026-01-31T13:00:00.000Z")], 2)
    assert table.claim.audit[-1]["notes"] == ["given up, past its age limit: crm"]


def test_a_redrive_is_recorded_whatever_it_comes_to():
    table = half_delivered(report("crm", Outcome.FAILED))
    table.claim = reopened(table.claim)
    again = report("crm", Outcome.FAILED, at="2026-01-31T13:00:00.000Z")
    settle_claim(table, EVENT_ID, None, [again], 2)
    first, second = table.claim.audit
    assert ("actor" in first, second["actor"]) == (False, "zoe@desk")
    assert "notes" not in second
    assert verify_chain(table.claim.audit) == []


def test_to_send_again_to_who_has_it_is_noted():
    table = half_delivered()
    table.claim = reopened(table.claim, targets=["crm", "analytics"])
    settle_claim(table, EVENT_ID, None, [report("crm"), report("analytics")], 2)
    record = table.claim.audit[-1]
    assert record["notes"] == ["sent again to who had it: crm, analytics"]
    assert record["actor"] == "zoe@desk"
    assert table.claim.status is Status.COMPLETED
