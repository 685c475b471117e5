import hashlib
import json
import logging

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tasks.claims import Status, audit
from tasks.claims.audit import lineage_hash, verify_chain
from tasks.errors import FieldError
from tests.support.samples import EVENT_ID, RECEIVED_AT, delivered, failed, make_record, without
from tests.support.strategies import audit_chains, audit_records, json_values, moments

CLOCKS = ("receivedAt", "processedAt", "lagMs")

RECORD = make_record(
    event_id=EVENT_ID,
    interaction_id="interaction-1",
    event_type="routed",
    received_at=RECEIVED_AT,
    processed_at="2026-01-31T12:00:02.500Z",
    status=Status.PARTIAL_FAILURE,
    deliveries={
        "crm": failed("400 Bad Request", attempts=1),
        "analytics": delivered(attempts=2),
    },
    previous=(0, None),
)


def hash_by_hand(record):
    """The definition in docs/interface.md, written down a second time."""
    stated = {
        name: value
        for name, value in record.items()
        if name not in ("receivedAt", "processedAt", "lagMs", "lineageHash")
    }
    text = json.dumps(stated, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


# ── What a record states ──────────────────────────────────────────────────────────────────────


def test_a_record_states_what_the_interface_says():
    assert without(RECORD, "lineageHash") == {
        "eventId": EVENT_ID,
        "interactionId": "interaction-1",
        "eventType": "routed",
        "receivedAt": RECEIVED_AT,
        "processedAt": "2026-01-31T12:00:02.500Z",
        "lagMs": 1500,
        "status": "partial_failure",
        "downstreamResults": [
            {"service": "analytics", "success": True, "attempts": 2},
            {"service": "crm", "success": False, "attempts": 1, "error": "400 Bad Request"},
        ],
        "revision": 1,
        "previousHash": None,
    }


def test_a_record_also_states_what_only_some_have():
    record = make_record(
        event_id=EVENT_ID,
        interaction_id=None,
        event_type=None,
        received_at=RECEIVED_AT,
        processed_at=RECEIVED_AT,
        status=Status.FAILED,
        deliveries={},
        previous=(3, "aa" * 32),
        notes=["noted"],
        errors=[FieldError("detail.channel", "Missing.")],
        actor="jane",
    )
    assert record["revision"] == 4
    assert record["previousHash"] == "aa" * 32
    assert record["notes"] == ["noted"]
    assert record["validationErrors"] == [{"field": "detail.channel", "message": "Missing."}]
    assert record["actor"] == "jane"


@pytest.mark.parametrize(
    ("received_at", "processed_at", "lag"),
    [
        ("2026-01-31T12:00:00.000Z", "2026-01-31T12:00:00.001Z", 1),
        ("2026-01-31T23:59:59.999Z", "2026-02-01T00:00:00.000Z", 1),
        ("2026-01-31T12:00:00.000Z", "2026-02-01T12:00:00.000Z", 86_400_000),
        ("2026-01-31T12:00:00.001Z", "2026-01-31T12:00:00.000Z", 0),
    ],
    ids=["a-millisecond", "over-midnight", "a-day", "clocks-that-disagree"],
)
def test_lag_is_in_milliseconds(received_at, processed_at, lag):
    assert at(received_at, processed_at)["lagMs"] == lag


def at(received_at, processed_at):
    return make_record(
        event_id=EVENT_ID,
        interaction_id=None,
        event_type=None,
        received_at=received_at,
        processed_at=processed_at,
        status=Status.FAILED,
        deliveries={},
        previous=(0, None),
    )


# ── The lineage hash ──────────────────────────────────────────────────────────────────────────


def test_the_hash_of_a_known_record():
    # Computed with another tool: the definition must never drift, or old chains would break.
    assert RECORD["lineageHash"] == (
        "6b33d9543e0ca5f0bea90a10d71158876640a3439e0f70a5b2d04d293184a2bf"
    )


@given(audit_records())
def test_the_hash_is_what_the_interface_says(record):
    assert record["lineageHash"] == hash_by_hand(record)


@given(audit_records(), moments, moments, st.integers())
def test_no_clock_changes_the_hash(record, received_at, processed_at, lag):
    readings = {"receivedAt": received_at, "processedAt": processed_at, "lagMs": lag}
    assert lineage_hash(record | readings) == record["lineageHash"]


@given(audit_records(), st.randoms())
def test_the_order_of_keys_does_not_either(record, random):
    names = random.sample(list(record), len(record))
    assert lineage_hash({name: record[name] for name in names}) == record["lineageHash"]


def canonical(value):
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return None


@given(audit_records(), json_values.filter(lambda value: canonical(value) is not None), st.data())
def test_any_other_change_changes_the_hash(record, value, data):
    stated = [name for name in record if name not in (*CLOCKS, "lineageHash")]
    name = data.draw(st.sampled_from([*stated, "added"]))
    assume(canonical(record.get(name)) != canonical(value) or name not in record)
    assert lineage_hash(record | {name: value}) != record["lineageHash"]


@given(audit_records(), st.data())
def test_leaving_anything_out_changes_the_hash(record, data):
    stated = [name for name in record if name not in (*CLOCKS, "lineageHash")]
    assert (
        lineage_hash(without(record, data.draw(st.sampled_from(stated)))) != record["lineageHash"]
    )


# ── The chain ─────────────────────────────────────────────────────────────────────────────────


@given(audit_chains())
def test_an_untouched_chain_holds(chain):
    assert verify_chain(chain) == []
    assert verify_chain([json.loads(json.dumps(record)) for record in chain]) == []


@given(audit_chains(min_size=1), st.data())
def test_a_changed_record_is_found(chain, data):
    number = data.draw(st.integers(0, len(chain) - 1))
    chain[number] = chain[number] | {"status": "tampered with"}
    assert verify_chain(chain) == [f"revision {number + 1}: does not match its own hash"]


@given(audit_chains(min_size=2), st.data())
def test_a_changed_record_with_a_hash_made_anew_breaks_the_next(chain, data):
    number = data.draw(st.integers(0, len(chain) - 2))
    forged = chain[number] | {"status": "tampered with"}
    chain[number] = forged | {"lineageHash": lineage_hash(forged)}
    assert verify_chain(chain) == [f"revision {number + 2}: does not follow the record before it"]


@given(audit_chains(min_size=2), st.data())
def test_a_dropped_record_is_found(chain, data):
    del chain[data.draw(st.integers(0, len(chain) - 2))]
    assert verify_chain(chain)


@given(audit_chains(min_size=2), st.data())
def test_swapped_records_are_found(chain, data):
    one, other = data.draw(
        st.lists(st.integers(0, len(chain) - 1), min_size=2, max_size=2, unique=True)
    )
    chain[one], chain[other] = chain[other], chain[one]
    assert verify_chain(chain)


@given(audit_chains(min_size=1), audit_records(), st.data())
def test_an_inserted_record_is_found(chain, foreign, data):
    place = data.draw(st.integers(0, len(chain)))
    chain.insert(place, foreign)
    assume(chain != [foreign])
    assert verify_chain(chain)


@given(audit_chains(min_size=1))
def test_a_record_that_is_there_twice_is_found(chain):
    assert verify_chain([*chain, chain[-1]])


@given(st.lists(st.dictionaries(st.sampled_from([*RECORD, "added"]), json_values), min_size=1))
@example([RECORD | {"status": float("nan")}])
@example([RECORD | {"eventId": "\ud800"}])
def test_whatever_stands_in_a_chain_is_told_and_not_tripped_over(chain):
    assert verify_chain(chain)


# ── In the log ────────────────────────────────────────────────────────────────────────────────


def test_a_record_is_one_json_object_a_line(caplog):
    with caplog.at_level(logging.INFO, "audit"):
        audit.log_records([RECORD, RECORD | {"interactionId": "Zoë\nDoe"}])
    lines = [record.getMessage() for record in caplog.records]
    assert json.loads(lines[0]) == RECORD
    assert "Zoë\\nDoe" in lines[1]
    assert not any("\n" in line for line in lines)
