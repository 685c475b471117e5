import json
import random
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.claims import Acquired, Conflict, Delivery, Duplicate, Status
from tasks.claims.audit import verify_chain
from tasks.claims.intake import MAX_PAYLOAD_BYTES, given_up_claim, read_event
from tasks.dispatch import delivery_payload, event_of, settle_signature
from tasks.errors import InvalidEventError
from tasks.events import canonical_json, event_from_json, load_envelope, parse_detail, payload_hash
from tasks.process import claim_event
from tests.support.samples import (
    EVENT_ID,
    PROD_RULES,
    RECEIVED_AT,
    RULED,
    STAGES,
    TIME,
    attempt,
    delivered,
    failed,
    make_claim,
    make_detail,
    make_envelope,
)
from tests.support.strategies import bent_envelopes, json_texts, json_values


def read(raw, key=EVENT_ID):
    return read_event(PROD_RULES, key, raw, RECEIVED_AT, "worker-a")


def errors_of(raw, key=EVENT_ID):
    """Why an event is invalid, as its audit record says: field → message."""
    claim, event = read(raw, key)
    assert event is None
    assert claim.status is Status.FAILED
    (record,) = claim.audit
    return {error["field"]: error["message"] for error in record["validationErrors"]}


# ── A valid event ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stage", STAGES)
def test_a_valid_event_gets_a_claim_to_work_on(stage):
    raw = make_envelope(stage)
    claim, event = read(raw)
    assert event == parse_detail(raw["detail"]).event
    assert claim.id == EVENT_ID
    assert claim.status is Status.PROCESSING
    assert claim.holder == "worker-a"
    assert claim.received_at == RECEIVED_AT
    assert claim.event_time == TIME
    assert claim.interaction_id == "interaction-1"
    assert claim.event_type == stage
    assert claim.deliveries == {s: Delivery() for s in ("analytics", "crm", "compliance")}
    assert (claim.version, claim.generation) == (1, 1)
    assert claim.audit == []
    assert claim.payload == canonical_json(load_envelope(raw).to_json())
    assert claim.payload_sha256 == payload_hash(claim.payload)


def test_a_replay_gets_a_claim_of_its_own():
    raw = make_envelope(**{"replay-name": "june"})
    claim, event = read(raw, f"{EVENT_ID}@june")
    assert event
    assert claim.id == f"{EVENT_ID}@june"


def test_the_payload_hash_ignores_what_eventbridge_adds():
    one, _ = read(make_envelope())
    again, _ = read(dict(reversed(make_envelope(traceHeader="x", account="2").items())))
    assert one.payload_sha256 == again.payload_sha256


def test_another_payload_has_another_hash():
    one, _ = read(make_envelope())
    another, _ = read(make_envelope(detail=make_detail(accountId="account-2")))
    assert one.payload_sha256 != another.payload_sha256


def test_a_stage_that_was_taken_over_the_status_is_noted():
    claim, _ = read(make_envelope(detail=make_detail("routed", status="queued")))
    assert list(claim.notes) == ["lifecycleStage routed taken over status queued"]


# ── An invalid one ────────────────────────────────────────────────────────────────────────────


def test_an_invalid_event_fails_with_reasons_in_its_record():
    claim, event = read(make_envelope(detail=make_detail(channel="fax")))
    assert event is None
    assert claim.status is Status.FAILED
    assert claim.deliveries == {}
    assert claim.holder is None
    assert claim.due_at is None
    assert claim.interaction_id == "interaction-1"
    assert claim.event_type is None
    (record,) = claim.audit
    assert record["status"] == "failed"
    assert record["downstreamResults"] == []
    assert record["processedAt"] == claim.processed_at
    assert [error["field"] for error in record["validationErrors"]] == ["detail.channel"]
    assert verify_chain(claim.audit) == []


def test_everything_wrong_is_told_at_once_schema_and_rules():
    detail = make_detail("routed", channel="fax")
    detail["metadata"] = RULED | {"region": "mars", "skill": 7}
    assert set(errors_of(make_envelope(detail=detail))) == {
        "detail.channel",
        "detail.metadata.agentId",
        "detail.metadata.skill",
        "detail.metadata.region",
    }


def test_a_metadata_violation_alone_makes_an_event_invalid():
    detail = make_detail()
    detail["metadata"] |= {"environment": "staging"}
    assert errors_of(make_envelope(detail=detail)) == {
        "detail.metadata.environment": 'must be "prod"'
    }


@pytest.mark.parametrize("metadata", [None, [], "x", 7], ids=repr)
def test_metadata_that_is_no_object_is_told_once(metadata):
    assert list(errors_of(make_envelope(detail=make_detail(metadata=metadata)))) == [
        "detail.metadata"
    ]


def test_an_event_under_a_key_that_is_not_its_own_is_invalid():
    assert errors_of(make_envelope(), "another") == {"id": "Does not give the key it came under."}
    replayed = make_envelope(**{"replay-name": "june"})
    for key in (EVENT_ID, f"{EVENT_ID}@june"):  # as the replay policy says
        claim, event = read(replayed, key)
        assert event
        assert claim.payload_sha256 == read(make_envelope())[0].payload_sha256


@pytest.mark.parametrize("raw", [None, [], "x", 7, {}, {"id": EVENT_ID}], ids=repr)
def test_what_is_no_envelope_is_kept_all_the_same(raw):
    assert errors_of(raw)
    claim, _ = read(raw)
    assert json.loads(claim.payload) == raw
    assert claim.interaction_id is None


@pytest.mark.parametrize("key", [None, "", 7, [], {}, True], ids=repr)
def test_without_a_key_there_is_nothing_to_keep_it_under(key):
    with pytest.raises(InvalidEventError, match="key: Not a dedup key"):
        read(make_envelope(), key)


@pytest.mark.parametrize("raw", [make_envelope(), {"no": "envelope"}], ids=["event", "other"])
def test_an_event_that_kills_its_workers_fails_unread(raw):
    claim = given_up_claim(EVENT_ID, raw, RECEIVED_AT)
    assert claim.status is Status.FAILED
    assert claim.deliveries == {}
    assert claim.interaction_id is None
    assert json.loads(claim.payload) == raw
    (record,) = claim.audit
    assert record["validationErrors"] == [
        {"field": "event", "message": "Given up: it kept killing its worker."}
    ]
    assert verify_chain(claim.audit) == []


def noise(length):
    """Text that does not compress."""
    return "".join(random.Random(4711).choices("0123456789abcdef", k=length))


def test_an_event_that_is_too_large_is_invalid_and_hashed():
    raw = make_envelope(detail=make_detail(recording=noise(4 * MAX_PAYLOAD_BYTES)))
    assert list(errors_of(raw)) == ["event"]
    claim, _ = read(raw)
    assert claim.payload == b""
    assert claim.payload_sha256 == payload_hash(canonical_json(load_envelope(raw).to_json()))


def test_a_large_event_that_compresses_is_taken():
    claim, event = read(make_envelope(detail=make_detail(transcript="hello " * 200_000)))
    assert event
    assert len(claim.payload) > MAX_PAYLOAD_BYTES


@pytest.mark.parametrize(
    "interaction_id", ["x" * 257, "", 7, None, ["x"]], ids=lambda v: str(v)[:9]
)
def test_an_interaction_id_that_is_none_is_not_shown(interaction_id):
    claim, _ = read(make_envelope(detail=make_detail(interactionId=interaction_id)))
    assert claim.interaction_id is None


MARKER = "Jane-Doe-4711"


@given(
    st.sampled_from(STAGES),
    st.dictionaries(
        st.sampled_from([*make_detail(), *RULED, "queue", "agentId", "durationMs", "toQueue"]),
        st.sampled_from([MARKER, [MARKER], {MARKER: MARKER}, MARKER * 200]),
    ),
)
def test_no_record_of_an_invalid_event_repeats_a_value(stage, changes):
    detail = make_detail(stage)
    detail["metadata"] |= {name: value for name, value in changes.items() if name not in detail}
    detail |= {name: value for name, value in changes.items() if name in detail}
    claim, _ = read(make_envelope(detail=detail))
    for record in claim.audit:
        assert MARKER not in json.dumps(record["validationErrors"])
        assert MARKER not in json.dumps({**record, "interactionId": None})


keys = st.just(EVENT_ID) | json_texts | json_values


@given(keys, bent_envelopes() | json_values)
@example("\ud800", {})
@example("x" * 5_000, make_envelope())
def test_any_json_gets_a_claim_or_is_refused_by_name(key, raw):
    got, error = attempt(read, raw, key)
    if got is None:
        assert [found.field for found in error.errors] == ["key"]
    else:
        claim, event = got
        assert claim.id == key
        assert (event is None) == (claim.status is Status.FAILED)
        assert verify_chain(claim.audit) == []


def nested(levels):
    value = {}
    for _ in range(levels):
        value = {"deeper": value}
    return value


@pytest.mark.parametrize(
    "raw", [nested(5_000), make_envelope(detail=nested(5_000))], ids=["raw", "detail"]
)
def test_an_event_nested_without_end_is_invalid_and_not_a_crash(raw):
    got, error = attempt(read, raw)
    if got is None:
        assert isinstance(error, InvalidEventError)
    else:
        assert got[0].status is Status.FAILED


# ── What the claim decides ────────────────────────────────────────────────────────────────────


class Table:
    """A table whose answer to a claim is given."""

    def __init__(self, answer):
        self.answer = answer

    def claim(self, new):
        return self.answer(new)


@pytest.mark.parametrize(
    ("answer", "word"), [(Acquired, "invalid"), (Duplicate, "duplicate"), (Conflict, "conflict")]
)
def test_an_event_that_is_not_delivered_says_why(answer, word):
    claim, event = read(make_envelope(detail={}))
    assert claim_event(Table(answer), claim, event) == word


@pytest.mark.parametrize("answer", [Duplicate, Conflict])
def test_a_valid_duplicate_is_not_delivered_again(answer):
    assert claim_event(Table(answer), *read(make_envelope())) == answer.__name__.lower()


def test_a_conflict_is_logged_by_its_hashes_alone(caplog):
    new, event = read(make_envelope())
    old = replace(new, payload_sha256="0" * 64)
    claim_event(Table(lambda _: Conflict(old)), new, event)
    (line,) = [record.getMessage() for record in caplog.records]
    assert EVENT_ID in line
    assert new.payload_sha256 in line
    assert old.payload_sha256 in line
    assert "account-1" not in line


# ── What is sent on ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stage", STAGES)
def test_a_claim_gives_its_event_back(stage):
    claim, event = read(make_envelope(stage))
    assert event_of(claim) == event
    assert delivery_payload(claim) == delivery_payload(claim, event)
    assert event_from_json(delivery_payload(claim)["event"]) == event
    assert delivery_payload(claim)["receivedAt"] == RECEIVED_AT


def test_settle_is_asked_for_by_an_id_that_tells_the_story():
    claim = make_claim(generation=3, deliveries={"analytics": delivered(), "crm": failed()})
    signature = settle_signature(claim, size=1)
    assert signature.task == "settle"
    assert signature.id == f"{EVENT_ID}.settle.3"
    assert signature.args == (EVENT_ID,)
    assert signature.kwargs == {"head": claim.snapshot.to_json(), "generation": 3}
    assert signature.options["headers"] == {"chord_size": 1}
