from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.events import (
    Envelope,
    EventType,
    canonical_json,
    event_from_json,
    parse_detail,
    payload_hash,
)
from tasks.events.model import Abandoned, Completed, Created, Routed, Transferred
from tests.support.samples import EVENT_ID, TIME, make_detail

COMMON = {"interaction_id": "interaction-1", "timestamp": TIME, "account_id": "account-1"}
COMMON_JSON = {"interactionId": "interaction-1", "timestamp": TIME, "accountId": "account-1"}


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        pytest.param(
            Created(**COMMON, channel="voice", initial_queue="billing"),
            {"type": "created", "channel": "voice", "initialQueue": "billing"},
            id="created",
        ),
        pytest.param(
            Routed(**COMMON, agent_id="agent-7", skill="refunds"),
            {"type": "routed", "agentId": "agent-7", "skill": "refunds"},
            id="routed",
        ),
        pytest.param(
            Transferred(**COMMON, to_queue="second-line"),
            {"type": "transfer", "toQueue": "second-line"},
            id="transfer-to-a-queue",
        ),
        pytest.param(
            Transferred(**COMMON, to_agent_id="a-8", from_agent_id="a-7", reason="skill"),
            {"type": "transfer", "toAgentId": "a-8", "fromAgentId": "a-7", "reason": "skill"},
            id="transfer-to-an-agent",
        ),
        pytest.param(
            Completed(**COMMON, disposition="resolved", duration_ms=0, agent_id="agent-7"),
            {"type": "completed", "disposition": "resolved", "durationMs": 0, "agentId": "agent-7"},
            id="completed",
        ),
        pytest.param(Abandoned(**COMMON), {"type": "abandoned"}, id="abandoned-early"),
        pytest.param(
            Abandoned(**COMMON, queue="billing", wait_ms=0),
            {"type": "abandoned", "queue": "billing", "waitMs": 0},
            id="abandoned-in-a-queue",
        ),
    ],
)
def test_event_has_exactly_the_keys_of_its_type(event, shown):
    assert event.to_json() == COMMON_JSON | shown
    assert event_from_json(event.to_json()) == event


texts = st.text(min_size=1, max_size=20)
milliseconds = st.integers(0, 2**53 - 1)


@given(
    st.one_of(
        st.builds(Created, interaction_id=texts, channel=texts, initial_queue=texts),
        st.builds(Routed, interaction_id=texts, agent_id=texts, skill=texts),
        st.builds(Transferred, to_queue=st.none() | texts, to_agent_id=st.none() | texts),
        st.builds(Completed, interaction_id=texts, duration_ms=milliseconds),
        st.builds(Abandoned, queue=st.none() | texts, wait_ms=st.none() | milliseconds),
    )
)
def test_event_survives_its_json(event):
    assert event_from_json(event.to_json()) == event


def test_unknown_key_of_a_newer_version_is_ignored():
    event = parse_detail(make_detail("routed")).event
    assert event_from_json(event.to_json() | {"addedLater": 1}) == event


def test_types_match_the_interface():
    assert {str(member) for member in EventType} == {
        "created",
        "routed",
        "transfer",
        "completed",
        "abandoned",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(
            {"b": 1, "a": [1, {"d": 2, "c": 3}]}, '{"a":[1,{"c":3,"d":2}],"b":1}', id="keys"
        ),
        pytest.param({"name": "Zoë"}, '{"name":"Zoë"}', id="utf-8"),
        pytest.param([True, None, 1.5], "[true,null,1.5]", id="no-spaces"),
    ],
)
def test_canonical_json(value, text):
    assert canonical_json(value) == text.encode("utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {"\udfff": 1}], ids=repr)
def test_canonical_json_refuses_what_json_cannot_hold(value):
    with pytest.raises(ValueError):  # noqa: PT011 - each kind has its own text
        canonical_json({"detail": value})


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=6))
def test_order_of_keys_does_not_change_the_hash(mapping):
    backwards = dict(reversed(mapping.items()))
    assert payload_hash(canonical_json(mapping)) == payload_hash(canonical_json(backwards))


ENVELOPE = Envelope(
    id=EVENT_ID, source="nice.cxone", detail_type="Interaction Event", time=TIME, detail={"a": 1}
)


def test_key_of_an_event_is_its_id():
    assert ENVELOPE.replay_key == EVENT_ID


def test_key_of_a_replay_includes_its_name():
    replayed = replace(ENVELOPE, replay_name="june")
    assert replayed.replay_key == f"{EVENT_ID}@june"
    assert replayed.to_json() == ENVELOPE.to_json() | {"replay-name": "june"}


def test_envelope_has_eventbridges_names():
    assert ENVELOPE.to_json() == {
        "id": EVENT_ID,
        "source": "nice.cxone",
        "detail-type": "Interaction Event",
        "time": TIME,
        "detail": {"a": 1},
    }
