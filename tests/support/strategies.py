"""What Hypothesis draws from: any JSON, events bent out of shape, deliveries, audit records."""

import copy
from typing import Any

from hypothesis import strategies as st

from tasks.claims import Call, Delivery, Outcome, Report, Status
from tasks.claims.outcomes import newest
from tasks.errors import FieldError

from .samples import EVENT_ID, STAGES, make_envelope, make_record

#: Any text that a JSON string can hold, lone surrogates included.
json_texts = st.text(st.characters(), max_size=12)

#: Any value that ``json.loads`` can return: also NaN, infinities, and integers of any size.
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**40, max_value=10**60)
    | st.floats()
    | json_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(json_texts, inner, max_size=3),
    max_leaves=8,
)

SINK_NAMES = ("analytics", "crm", "compliance")

# Few different moments and texts, so that Hypothesis finds what depends on two being the same.
moments = st.sampled_from([f"2026-01-31T12:00:0{second}.000Z" for second in range(4)])
reasons = st.sampled_from(["400 Bad Request", "503 Service Unavailable"])
generations = st.integers(1, 3)
settled_outcomes = st.sampled_from([o for o in Outcome if o is not Outcome.PENDING])


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside, the whole among them."""
    found = [path]
    if isinstance(value, dict):
        for name, inner in value.items():
            found += _places(inner, (*path, name))
    return found


@st.composite
def bent_envelopes(draw: st.DrawFn) -> Any:
    """A valid envelope with any JSON in up to three places, or with keys missing."""
    envelope: Any = make_envelope(draw(st.sampled_from(STAGES)))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(_places(envelope)))
        if not path:
            return draw(json_values)
        *way, name = path
        parent = envelope
        for step in way:
            parent = parent[step]
        if draw(st.booleans()):
            parent[name] = draw(json_values)
        else:
            del parent[name]
    return copy.deepcopy(envelope)


def reasons_of(outcome: Outcome) -> st.SearchStrategy[dict[str, Any]]:
    """Why a delivery ended as it did, and whether it may yet get through."""
    if outcome is Outcome.DELIVERED:
        return st.just({})
    responses = st.none() | st.just("no such account")
    return st.fixed_dictionaries(
        {"error": reasons, "transient": st.booleans(), "response": responses}
    )


#: More calls than are remembered, now and then.
calls = st.sets(
    st.builds(
        Call,
        st.integers(1_769_860_800_000, 1_769_860_800_099),
        st.integers(0, 99),
        st.sampled_from([0, 200, 503]),
        st.sampled_from(["", "503 Service Unavailable"]),
    ),
    max_size=30,
)


@st.composite
def deliveries(draw: st.DrawFn) -> Delivery:
    """A delivery as a claim can have it."""
    outcome = draw(st.sampled_from(Outcome))
    if outcome is Outcome.PENDING:
        return Delivery()
    return Delivery(
        outcome=outcome,
        tries=draw(st.dictionaries(generations.map(str), st.integers(0, 5), max_size=3)),
        at=draw(moments),
        calls=newest(draw(calls)),
        **draw(reasons_of(outcome)),
    )


@st.composite
def reports(draw: st.DrawFn) -> Report:
    """A report that a delivery task may send at its end."""
    outcome = draw(settled_outcomes)
    return Report(
        sink=draw(st.sampled_from(SINK_NAMES)),
        outcome=outcome,
        attempts=draw(st.integers(0, 5)),
        at=draw(moments),
        calls=newest(draw(calls)),
        **draw(reasons_of(outcome)),
    )


#: Rounds of settling: what was reported, and in which generation.
rounds = st.tuples(st.lists(reports(), max_size=4), generations)

deliveries_by_sink = st.dictionaries(st.sampled_from(SINK_NAMES), deliveries(), max_size=3)


@st.composite
def audit_records(draw: st.DrawFn) -> dict[str, Any]:
    """An audit record of any event, however it ended."""
    names = st.text(min_size=1, max_size=8)
    return make_record(
        event_id=EVENT_ID,
        interaction_id=draw(st.none() | names),
        event_type=draw(st.none() | st.sampled_from(STAGES)),
        received_at=draw(moments),
        processed_at=draw(moments),
        status=draw(st.sampled_from(Status)),
        deliveries=draw(deliveries_by_sink),
        previous=(draw(st.integers(0, 3)), draw(st.none() | names)),
        notes=draw(st.lists(names, max_size=2)),
        errors=draw(st.lists(st.builds(FieldError, names, names), max_size=2)),
        actor=draw(st.none() | names),
    )


@st.composite
def audit_chains(draw: st.DrawFn, min_size: int = 0) -> list[dict[str, Any]]:
    """The audit records of one event, oldest first."""
    chain: list[dict[str, Any]] = []
    for status in draw(st.lists(st.sampled_from(Status), min_size=min_size, max_size=4)):
        newest = chain[-1] if chain else {"revision": 0, "lineageHash": None}
        record = make_record(
            event_id=EVENT_ID,
            interaction_id="Zoë",
            event_type=None,
            received_at="2026-01-31T12:00:01.000Z",
            processed_at=f"2026-01-31T12:00:0{2 + len(chain)}.000Z",
            status=status,
            deliveries={},
            previous=(newest["revision"], newest["lineageHash"]),
        )
        chain.append(record)
    return chain
