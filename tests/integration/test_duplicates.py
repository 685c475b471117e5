"""Duplicates of an event: at the same time, later, with another payload, or as a replay."""

from concurrent.futures import ThreadPoolExecutor

from tests.support.envelopes import SINKS, assert_chain_holds, envelope
from tests.support.system import IngestContainer, System, TaskEvents


def test_twenty_simultaneous_duplicates_are_one_event(
    system: System, ingest: IngestContainer, task_events: TaskEvents
) -> None:
    event = envelope()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ingest.post, [event] * 20))
    assert {(a.status, a.json["accepted"]) for a in answers} == {(202, 1)}

    ended = task_events.wait_for(f"{event['id']}.process.", count=20)
    claim = system.settled(event["id"])

    answered = [e["result"] for e in ended]
    assert sum("'claimed'" in result for result in answered) == 1
    assert sum("'duplicate'" in result for result in answered) == 19
    assert {sink: len(calls) for sink, calls in system.calls(event).items()} == dict.fromkeys(
        SINKS, 1
    )
    assert (claim.status, claim.version, len(claim.audit)) == ("completed", 2, 1)


def test_a_later_duplicate_changes_nothing(
    system: System, ingest: IngestContainer, task_events: TaskEvents
) -> None:
    event = envelope()
    claim = system.settle(event)
    system.accept({**event, "resources": ["a field that is not read makes no other event"]})
    duplicate = task_events.wait_for(f"{claim.id}.process.", count=2)[1]
    assert "duplicate" in duplicate["result"]
    assert system.claim(claim.id) == claim
    assert [len(calls) for calls in system.calls(event).values()] == [1, 1, 1]


def test_a_duplicate_of_an_invalid_event_changes_nothing(
    system: System, ingest: IngestContainer, task_events: TaskEvents
) -> None:
    event = envelope(metadata={"region": "mars-1"})
    claim = system.settle(event)
    system.accept(event)
    duplicate = task_events.wait_for(f"{claim.id}.process.", count=2)[1]
    assert "duplicate" in duplicate["result"]
    assert system.claim(claim.id) == claim


def test_an_id_with_another_payload_is_a_conflict(
    system: System, ingest: IngestContainer, task_events: TaskEvents
) -> None:
    event = envelope()
    claim = system.settle(event)
    other = envelope(id=event["id"])
    system.accept(other)
    conflict = task_events.wait_for(f"{claim.id}.process.", count=2)[1]
    assert "conflict" in conflict["result"]
    assert [len(calls) for calls in system.calls(other).values()] == [0, 0, 0]
    assert system.claim(claim.id) == claim
    assert f"event {claim.id} came with another payload: refused" in system.worker.logs()


def test_a_replay_is_delivered_again_once_under_its_own_key(
    system: System, ingest: IngestContainer, task_events: TaskEvents
) -> None:
    event = envelope()
    system.settle(event)
    replay = {**event, "replay-name": "after-the-flood"}
    key = f"{event['id']}@after-the-flood"

    claim = system.settle(replay)
    system.accept(replay)
    task_events.wait_for(f"{key}.process.", count=2)

    assert (claim.id, claim.status) == (key, "completed")
    assert_chain_holds(claim.audit)
    keys = {sink: [r.key for r in calls] for sink, calls in system.calls(event).items()}
    assert keys == {sink: [f"{event['id']}:{sink}", f"{key}:{sink}"] for sink in SINKS}
