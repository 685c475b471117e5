"""Redis lost with its data: a replay of the bus's archive restores what had no claim yet."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from embedded.infrastructure import provision
from tests.support.envelopes import SINKS, envelope
from tests.support.nodes import HOST
from tests.support.system import API_KEY, CREDENTIALS, REGION, System
from tests.support.waiting import eventually

from .conftest import MakeSystem
from .test_event_bus import put


@pytest.fixture(scope="module", params=["missing", "all"])
def module_system(request: pytest.FixtureRequest, make_system: MakeSystem) -> Iterator[System]:
    """A system with one of the replay policies."""
    policy = request.param
    with make_system(f"replay-{policy}", REPLAY_POLICY=policy) as system:
        yield system


@pytest.fixture
def bus(system: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The bus with rule and archive, and its client."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": system.aws_url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", HOST)
    settings = {"EVENT_SOURCE": "nice.cxone", "AWS_REGION": REGION, **system.settings}
    provision(settings, ingest_url=f"http://{HOST}:{system.ingest.port}/events", api_key=API_KEY)
    with closing(system.client("events")) as client:
        yield client


def replay(bus: Any, name: str) -> str:
    """Replay the last hour of the archive; return the replay's name."""
    source = bus.describe_event_bus()["Arn"]
    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    bus.start_replay(
        ReplayName=name,
        EventSourceArn=bus.describe_archive(ArchiveName=name)["ArchiveArn"],
        EventStartTime=now - hour,
        EventEndTime=now + hour,
        Destination={"Arn": source},
    )
    eventually(lambda: bus.describe_replay(ReplayName=name)["State"] == "COMPLETED")
    return name


def test_a_replay_restores_what_redis_lost(system: System, bus: Any) -> None:
    name = system.folder.name
    source = bus.describe_event_bus()["Arn"]
    bus.create_archive(ArchiveName=name, EventSourceArn=source)
    settled, lost = envelope(), envelope()
    [settled_key] = put(bus, settled)
    assert system.settled(settled_key).status == "completed"
    system.worker.stop()
    [lost_key] = put(bus, lost)
    eventually(lambda: system.broker.client.llen("events") == 1)

    system.broker.client.flushall()
    system.worker.restart()
    replay(bus, name)

    once, twice = dict.fromkeys(SINKS, 1), dict.fromkeys(SINKS, 2)
    if system.settings["REPLAY_POLICY"] == "missing":
        assert system.settled(lost_key).status == "completed"
        assert calls(system, settled) == once, "what has a claim is a duplicate"
    else:
        assert system.settled(f"{lost_key}@{name}").status == "completed"
        assert system.settled(f"{settled_key}@{name}").status == "completed"
        assert calls(system, settled) == twice, "a replay is asked for, so it is delivered again"
    assert calls(system, lost) == once


def calls(system: System, event: dict[str, Any]) -> dict[str, int]:
    """Count the calls about an event, by sink."""
    return {sink: len(calls) for sink, calls in system.calls(event).items()}
