import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import InvalidEventError
from tasks.events import load_envelope, parse_detail
from tasks.events.schemas import CHANNELS
from tests.support.samples import (
    EVENT_ID,
    FULL_METADATA,
    RULED,
    STAGES,
    TIME,
    attempt,
    make_detail,
    make_envelope,
    messages_of,
    without,
)
from tests.support.strategies import bent_envelopes, json_values

MISSING = "Missing data for required field."
NOT_TEXT = "Not a valid string."
NOT_WHOLE = "Not a valid integer."

#: What each lifecycle stage requires of metadata: (stage, field).
REQUIRED = [
    ("created", "queue"),
    ("routed", "agentId"),
    ("routed", "skill"),
    ("completed", "disposition"),
    ("completed", "durationMs"),
    ("completed", "agentId"),
]
OPTIONAL = [
    ("transfer", "toQueue"),  # where toAgentId is given
    ("transfer", "toAgentId"),  # where toQueue is given
    ("transfer", "fromAgentId"),
    ("transfer", "reason"),
    ("abandoned", "queue"),
    ("abandoned", "waitMs"),
]
WHOLE_NUMBERS = [("completed", "durationMs"), ("abandoned", "waitMs")]
TEXTS = [row for row in REQUIRED + OPTIONAL if row not in WHOLE_NUMBERS]
COMMON_TEXTS = ["interactionId", "timestamp", "accountId", "channel", "status"]


def parse(stage, **metadata):
    return parse_detail(make_detail(stage, metadata=RULED | FULL_METADATA[stage] | metadata)).event


def refusal_of(detail):
    """What is wrong with a detail: field → message."""
    with pytest.raises(InvalidEventError) as raised:
        parse_detail(detail)
    return messages_of(raised.value)


def refusal_of_metadata(stage, metadata):
    return refusal_of(make_detail(stage, metadata=metadata))


def rows(table):
    return pytest.mark.parametrize(("stage", "name"), table, ids=[".".join(row) for row in table])


# ── The detail's table, row by row ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stage", STAGES)
def test_complete_event_has_every_field_of_its_type(stage):
    event, notes = parse_detail(make_detail(stage))
    expected = FULL_METADATA[stage]
    if stage == "created":
        expected = {"channel": "voice", "initialQueue": "billing"}
    common = {"interactionId": "interaction-1", "timestamp": TIME, "accountId": "account-1"}
    assert event.to_json() == {"type": stage} | common | expected
    assert notes == ()


@rows(REQUIRED)
def test_missing_required_field_is_named(stage, name):
    metadata = without(RULED | FULL_METADATA[stage], name)
    assert refusal_of_metadata(stage, metadata) == {f"detail.metadata.{name}": MISSING}


@rows(REQUIRED)
def test_null_required_field_is_refused(stage, name):
    metadata = RULED | FULL_METADATA[stage] | {name: None}
    assert refusal_of_metadata(stage, metadata) == {
        f"detail.metadata.{name}": "Field may not be null."
    }


@rows(OPTIONAL)
def test_optional_field_may_be_missing(stage, name):
    detail = make_detail(stage, metadata=without(RULED | FULL_METADATA[stage], name))
    assert name not in parse_detail(detail).event.to_json()


@rows(OPTIONAL)
def test_null_optional_field_counts_as_missing(stage, name):
    assert name not in parse(stage, **{name: None}).to_json()


@rows(TEXTS)
@pytest.mark.parametrize("value", [7, True, 1.5, ["x"], {"x": "y"}], ids=repr)
def test_text_of_another_type_is_refused(stage, name, value):
    metadata = RULED | FULL_METADATA[stage] | {name: value}
    assert refusal_of_metadata(stage, metadata) == {f"detail.metadata.{name}": NOT_TEXT}


@rows(TEXTS)
@pytest.mark.parametrize("value", ["", "x" * 1025], ids=["empty", "too-long"])
def test_text_has_1_to_1024_characters(stage, name, value):
    metadata = RULED | FULL_METADATA[stage] | {name: value}
    assert refusal_of_metadata(stage, metadata) == {
        f"detail.metadata.{name}": "Length must be between 1 and 1024."
    }


@rows(TEXTS)
def test_text_of_1024_characters_is_kept_whole(stage, name):
    shown = parse(stage, **{name: "é" * 1024}).to_json()
    assert "é" * 1024 in shown.values()


@rows(WHOLE_NUMBERS)
@pytest.mark.parametrize(
    "value", ["12", "", 12.0, 12.5, True, False, [12], {}, float("nan"), float("inf")], ids=repr
)
def test_milliseconds_must_be_a_whole_number(stage, name, value):
    metadata = RULED | FULL_METADATA[stage] | {name: value}
    assert refusal_of_metadata(stage, metadata) == {f"detail.metadata.{name}": NOT_WHOLE}


@rows(WHOLE_NUMBERS)
@pytest.mark.parametrize("value", [-1, 2**53, 10**400], ids=["negative", "2^53", "10^400"])
def test_milliseconds_have_bounds(stage, name, value):
    metadata = RULED | FULL_METADATA[stage] | {name: value}
    messages = refusal_of_metadata(stage, metadata)
    assert list(messages) == [f"detail.metadata.{name}"]
    assert "9007199254740991" in messages[f"detail.metadata.{name}"]


@rows(WHOLE_NUMBERS)
@pytest.mark.parametrize("value", [0, 2**53 - 1], ids=["zero", "largest"])
def test_milliseconds_within_bounds_are_kept_exactly(stage, name, value):
    assert parse(stage, **{name: value}).to_json()[name] == value


@pytest.mark.parametrize("targets", [{}, {"toQueue": None, "toAgentId": None}], ids=repr)
def test_transfer_without_a_target_is_refused(targets):
    assert refusal_of_metadata("transfer", RULED | targets) == {
        "detail.metadata.toQueue": "Missing data: toQueue or toAgentId is required."
    }


@pytest.mark.parametrize("stage", STAGES)
def test_unknown_keys_are_ignored(stage):
    detail = make_detail(stage, sentiment="calm")
    detail["metadata"]["ivrPath"] = ["1", {"deep": 3}]
    assert parse_detail(detail) == parse_detail(make_detail(stage))


@pytest.mark.parametrize("name", ["interactionId", "channel", "status", "timestamp", "accountId"])
@pytest.mark.parametrize("value", [None, 7, "", [], True], ids=repr)
def test_common_fields_are_checked_and_named(name, value):
    assert list(refusal_of(make_detail(**{name: value}))) == [f"detail.{name}"]
    assert refusal_of(without(make_detail(), name)) == {f"detail.{name}": MISSING}


@pytest.mark.parametrize("name", ["interactionId", "accountId"])
def test_id_has_at_most_256_characters(name):
    parse_detail(make_detail(**{name: "x" * 256}))
    assert list(refusal_of(make_detail(**{name: "x" * 257}))) == [f"detail.{name}"]


@pytest.mark.parametrize("metadata", [None, [], "x", 7, [["queue", "billing"]]], ids=repr)
def test_metadata_must_be_an_object(metadata):
    assert list(refusal_of(make_detail(metadata=metadata))) == ["detail.metadata"]


@pytest.mark.parametrize("channel", CHANNELS)
def test_every_channel_is_accepted(channel):
    assert parse_detail(make_detail(channel=channel)).event.channel == channel


@pytest.mark.parametrize("channel", ["Voice", "fax", " voice", "voice\n"], ids=repr)
def test_other_channel_is_refused(channel):
    assert list(refusal_of(make_detail(channel=channel))) == ["detail.channel"]


# ── Stage and status ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "stage"),
    [
        ("queued", "created"),
        ("routed", "routed"),
        ("in-progress", "routed"),
        ("completed", "completed"),
        ("abandoned", "abandoned"),
    ],
)
@pytest.mark.parametrize("given_as", ["null", "absent"])
def test_status_decides_without_a_stage(status, stage, given_as):
    detail = make_detail(stage, status=status, lifecycleStage=None)
    if given_as == "absent":
        del detail["lifecycleStage"]
    event, notes = parse_detail(detail)
    assert (event.type, notes) == (stage, ())


AGREE = {
    ("created", "queued"),
    ("routed", "routed"),
    ("routed", "in-progress"),
    ("transfer", "queued"),
    ("transfer", "routed"),
    ("transfer", "in-progress"),
    ("completed", "completed"),
    ("abandoned", "abandoned"),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("status", ["queued", "routed", "in-progress", "completed", "abandoned"])
def test_stage_wins_and_a_disagreeing_status_is_noted(stage, status):
    event, notes = parse_detail(make_detail(stage, status=status))
    assert event.type == stage
    if (stage, status) in AGREE:
        assert notes == ()
    else:
        assert notes == (f"lifecycleStage {stage} taken over status {status}",)


@pytest.mark.parametrize(
    "stage", ["", "Created", "transferred", 7, True, ["created"], {}], ids=repr
)
def test_unknown_stage_is_refused_and_not_guessed(stage):
    # Were the status to decide, metadata.queue would be missing, too.
    assert list(refusal_of(make_detail(lifecycleStage=stage, metadata=RULED))) == [
        "detail.lifecycleStage"
    ]


# ── All at once ───────────────────────────────────────────────────────────────────────────────


def test_all_problems_are_reported_at_once():
    detail = make_detail("completed", channel="fax", timestamp="yesterday", accountId=None)
    detail["metadata"] = RULED | {"durationMs": "12"}
    assert set(refusal_of(detail)) == {
        "detail.channel",
        "detail.timestamp",
        "detail.accountId",
        "detail.metadata.disposition",
        "detail.metadata.durationMs",
        "detail.metadata.agentId",
    }


@pytest.mark.parametrize("given_as", ["null", "absent"])
def test_metadata_is_checked_though_common_fields_are_wrong(given_as):
    detail = make_detail("completed", channel="fax", lifecycleStage=None, metadata={})
    if given_as == "absent":
        del detail["lifecycleStage"]
    assert set(refusal_of(detail)) == {
        "detail.channel",
        "detail.metadata.disposition",
        "detail.metadata.durationMs",
        "detail.metadata.agentId",
    }


def test_metadata_is_checked_though_the_status_is_wrong():
    detail = make_detail("routed", status="ringing", metadata=RULED)
    assert set(refusal_of(detail)) == {
        "detail.status",
        "detail.metadata.agentId",
        "detail.metadata.skill",
    }


def test_type_is_not_guessed_without_stage_and_status():
    detail = make_detail(status="ringing", lifecycleStage=None, metadata={})
    assert list(refusal_of(detail)) == ["detail.status"]


def test_empty_detail_names_every_missing_field():
    assert set(refusal_of({})) == {f"detail.{name}" for name in [*COMMON_TEXTS, "metadata"]}


# ── The envelope ──────────────────────────────────────────────────────────────────────────────


def envelope_refusal_of(raw):
    with pytest.raises(InvalidEventError) as raised:
        load_envelope(raw)
    return messages_of(raised.value)


def test_unknown_fields_of_an_envelope_are_ignored():
    envelope = load_envelope(make_envelope(traceHeader={"added": "later"}))
    assert envelope.to_json() == without(
        make_envelope(), "version", "account", "region", "resources"
    )
    assert envelope.replay_key == EVENT_ID


@pytest.mark.parametrize(
    "raw", [None, True, 7, "x", [], [make_envelope()]], ids=lambda r: str(r)[:9]
)
def test_envelope_must_be_an_object(raw):
    assert envelope_refusal_of(raw) == {"event": "Not a JSON object."}


@pytest.mark.parametrize("name", ["id", "source", "detail-type", "time", "detail"])
def test_envelope_fields_are_checked_and_named(name):
    assert envelope_refusal_of(without(make_envelope(), name)) == {name: MISSING}
    for value in (None, 7, "", [], True):
        assert list(envelope_refusal_of(make_envelope(**{name: value}))) == [name]


def test_all_problems_of_an_envelope_are_reported_at_once():
    raw = {"id": "no spaces", "time": "noon", "detail": []}
    assert set(envelope_refusal_of(raw)) == {"id", "source", "detail-type", "time", "detail"}


@pytest.mark.parametrize(
    "event_id", [EVENT_ID, "0", "A.b_c:d-e", "x" * 128], ids=["uuid", "short", "signs", "longest"]
)
def test_id_that_can_be_a_key_and_a_task_id_is_accepted(event_id):
    assert load_envelope(make_envelope(id=event_id)).replay_key == event_id


@pytest.mark.parametrize(
    "event_id",
    ["x" * 129, "a b", "-a", ".a", "a@b", "a/b", "a\n", "\na", "é", "٣", "a\x00", "\ud800", "a*"],
    ids=ascii,
)
def test_other_id_is_refused(event_id):
    assert list(envelope_refusal_of(make_envelope(id=event_id))) == ["id"]


@pytest.mark.parametrize(
    "name", ["june", "x" * 64, "A.b_c-9", "-"], ids=["word", "longest", "signs", "dash"]
)
def test_replay_has_a_key_of_its_own(name):
    envelope = load_envelope(make_envelope(**{"replay-name": name}))
    assert envelope.replay_key == f"{EVENT_ID}@{name}"
    assert load_envelope(envelope.to_json()) == envelope


def test_null_replay_name_counts_as_missing():
    assert load_envelope(make_envelope(**{"replay-name": None})).replay_key == EVENT_ID


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a@b", "a\n", "é", 7, [], True], ids=ascii)
def test_replay_name_that_cannot_be_in_a_key_is_refused(name):
    assert list(envelope_refusal_of(make_envelope(**{"replay-name": name}))) == ["replay-name"]


RFC3339_TIMES = [
    "2026-01-31T12:00:00Z",
    "2026-01-31t12:00:00z",
    "2026-01-31T12:00:00.1Z",
    "2026-01-31T12:00:00.123456789Z",
    "2026-01-31T12:00:00+00:00",
    "2026-01-31T12:00:00-00:00",
    "2026-01-31T12:00:00+14:00",
    "2026-01-31T12:00:00.5-23:59",
    "2024-02-29T23:59:59Z",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999Z",
]

OTHER_TIMES = [
    "2026-01-31",
    "2026-01-31T12:00Z",
    "2026-01-31T12:00:00",
    "2026-01-31 12:00:00Z",
    "20260131T120000Z",
    "2026-W05-6T12:00:00Z",
    "2026-01-31T12:00:00.Z",
    "2026-01-31T12:00:00,5Z",
    "2026-01-31T12:00:00.1234567890Z",
    "2026-01-31T12:00:00+0100",
    "2026-01-31T12:00:00+01",
    "2026-01-31T12:00:00+24:00",
    "2026-01-31T12:00:00+05:99",
    "2026-01-31T12:00:00+01:00:30",
    "2026-01-31T24:00:00Z",
    "2026-01-31T12:60:00Z",
    "2026-01-31T12:00:61Z",
    "2026-02-30T12:00:00Z",
    "2025-02-29T12:00:00Z",
    "2026-13-01T12:00:00Z",
    "2026-01-31T12:00:00Z\n",
    " 2026-01-31T12:00:00Z",
    "٢٠٢٦-01-31T12:00:00Z",
    "1769860800",
    "now",
]


@pytest.mark.parametrize("time", RFC3339_TIMES)
def test_rfc_3339_time_is_kept_unchanged(time):
    assert load_envelope(make_envelope(time=time)).time == time
    assert parse_detail(make_detail(timestamp=time)).event.timestamp == time


@pytest.mark.parametrize("time", OTHER_TIMES, ids=ascii)
def test_other_time_is_refused(time):
    message = "Not an RFC 3339 time, such as 2026-01-31T12:00:00Z."
    assert envelope_refusal_of(make_envelope(time=time)) == {"time": message}
    assert refusal_of(make_detail(timestamp=time)) == {"detail.timestamp": message}


@pytest.mark.parametrize(
    "value",
    ["\ud800", {"\udfff": 1}, float("nan"), float("inf"), json.loads("1e400"), ["x", ["\udc00"]]],
    ids=ascii,
)
def test_value_that_json_cannot_hold_is_refused_anywhere(value):
    raw = make_envelope(detail=make_detail(metadata={"deep": [value]}))
    assert list(envelope_refusal_of(raw)) == ["event"]


# ── Properties ────────────────────────────────────────────────────────────────────────────────

#: Personal data, which no error may contain.
MARKER = "Jane-Doe-4711"
NUMBER = 47_114_711_471_147_114_711

marked_values = st.sampled_from(
    [
        MARKER,
        MARKER * 200,
        f"{MARKER}\ud800",
        NUMBER,
        -NUMBER,
        NUMBER + 0.5,
        [MARKER],
        {"name": MARKER},
        {MARKER: MARKER},
    ]
)
DETAIL_FIELDS = [*COMMON_TEXTS, "lifecycleStage", "metadata"]
METADATA_FIELDS = sorted({name for row in FULL_METADATA.values() for name in row} | set(RULED))


def marked(names):
    """Objects with personal data in any of these fields."""
    return st.dictionaries(st.sampled_from(names), marked_values)


def shows_a_value(text):
    return MARKER in text or str(NUMBER) in text or repr(NUMBER + 0.5) in text


@given(st.sampled_from(STAGES), marked(DETAIL_FIELDS), marked(METADATA_FIELDS))
def test_no_error_of_a_detail_repeats_a_value(stage, common, metadata):
    detail = make_detail(stage)
    detail["metadata"] |= metadata
    detail |= common
    _, error = attempt(parse_detail, detail)
    if error:
        assert not shows_a_value(str(error))
        assert all(found.field.startswith("detail.") for found in error.errors)


@given(marked(["id", "source", "detail-type", "time", "detail", "replay-name", "version"]))
def test_no_error_of_an_envelope_repeats_a_value(changes):
    _, error = attempt(load_envelope, make_envelope(**changes))
    assert not shows_a_value(str(error))


@given(bent_envelopes() | json_values)
def test_any_json_is_an_envelope_or_refused_by_name(raw):
    envelope, error = attempt(load_envelope, raw)
    if error:
        assert error.errors
        assert all(found.field and found.message for found in error.errors)
    else:
        assert load_envelope(envelope.to_json()) == envelope


def detail_of(raw):
    return raw.get("detail") if isinstance(raw, dict) else None


@given(bent_envelopes().map(detail_of).filter(lambda detail: isinstance(detail, dict)))
def test_any_detail_is_an_event_or_refused_by_name(detail):
    parsed, error = attempt(parse_detail, detail)
    if error:
        assert error.errors
        assert all(found.field and found.message for found in error.errors)
    else:
        assert None not in parsed.event.to_json().values()
