"""From PutEvents through rule and API destination, as ``deploy/eventbridge.yaml`` defines them."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from embedded.infrastructure import provision
from tests.support.envelopes import SINKS, Envelope, assert_chain_holds, envelope
from tests.support.nodes import HOST
from tests.support.system import API_KEY, CREDENTIALS, REGION, IngestContainer, System
from tests.support.waiting import eventually


@pytest.fixture
def bus(system: System, ingest: IngestContainer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The client of a bus that has a rule to ingest."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": system.aws_url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", HOST)
    settings = {"EVENT_SOURCE": "nice.cxone", "AWS_REGION": REGION, **system.settings}
    url = f"http://{HOST}:{ingest.port}/events"
    for _ in range(2):  # it is idempotent
        provision(settings, ingest_url=url, api_key=API_KEY)
    with closing(system.client("events")) as client:
        yield client


def put(bus: Any, *events: Envelope) -> list[str]:
    """Put events on the bus, as a producer does; return the ids that the bus gave them."""
    entries = [
        {
            "Source": event["source"],
            "DetailType": event["detail-type"],
            "Detail": json.dumps(event["detail"]),
        }
        for event in events
    ]
    answer = bus.put_events(Entries=entries)
    assert answer["FailedEntryCount"] == 0
    return [entry["EventId"] for entry in answer["Entries"]]


def test_events_on_the_bus_reach_every_sink(system: System, bus: Any) -> None:
    events = [envelope("created"), envelope("routed"), envelope("completed")]
    for event, key in zip(events, put(bus, *events), strict=True):
        claim = system.settled(key)
        assert claim.status == "completed"
        assert_chain_holds(list(claim.audit))
        got = {sink: [r.key for r in calls] for sink, calls in system.calls(event).items()}
        assert got == {sink: [f"{key}:{sink}"] for sink in SINKS}


def test_events_of_another_source_are_not_delivered(system: System, bus: Any) -> None:
    foreign, matching = put(bus, envelope(source="another.source"), envelope())
    system.settled(matching)
    assert system.claims.get(foreign) is None


def test_event_put_twice_counts_as_two(system: System, bus: Any) -> None:
    event = envelope()
    keys = put(bus, event, event)
    assert len(set(keys)) == 2
    for key in keys:
        assert system.settled(key).status == "completed"
    assert eventually(lambda: len(system.calls(event)["crm"]) == 2)
