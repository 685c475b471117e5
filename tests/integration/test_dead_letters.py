"""``celery -A tasks dead-letters``: from EventBridge's dead-letter queue to ingest."""

import json
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from embedded.sinks import SampleSinks
from tests.support.envelopes import SINKS, envelope
from tests.support.nodes import HOST, free_port
from tests.support.system import API_KEY, IngestContainer, System


class Queue:
    """A dead-letter queue, as EventBridge fills it."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.url: str = client.create_queue(QueueName=f"dead-{uuid.uuid4()}")["QueueUrl"]

    def put(self, body: Any) -> None:
        """Add a message, as EventBridge does when it gives up on an event."""
        attributes = {
            "RULE_ARN": "arn:aws:events:us-east-1:123456789012:rule/cxone-events-to-ingest",
            "TARGET_ARN": "arn:aws:events:us-east-1:123456789012:api-destination/Ingest",
            "ERROR_CODE": "SDK_CLIENT_ERROR",
            "ERROR_MESSAGE": "Unable to invoke ApiDestination endpoint: 503",
            "EXHAUSTED_RETRY_CONDITION": "MaximumRetryAttempts",
            "RETRY_ATTEMPTS": "185",
        }
        self._client.send_message(
            QueueUrl=self.url,
            MessageBody=body if isinstance(body, str) else json.dumps(body),
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value}
                for name, value in attributes.items()
            },
        )

    def bodies(self) -> list[str]:
        """The bodies of all visible messages."""
        found = []
        while messages := self._client.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=10, VisibilityTimeout=60
        ).get("Messages"):
            found += [message["Body"] for message in messages]
        return found


@pytest.fixture
def queue(system: System, sinks: SampleSinks) -> Iterator[Queue]:
    """An empty queue."""
    with closing(system.client("sqs")) as client:
        yield Queue(client)


def run_command(
    system: System, queue: Queue, *options: str, **changes: str
) -> "subprocess.CompletedProcess[str]":
    """Run the command with the settings of the system."""
    settings = {
        "INGEST_API_KEYS": f"{API_KEY},another",
        "INGEST_URL": f"http://{HOST}:{system.ingest.port}/events",
        "DEAD_LETTERS_URL": queue.url,
        **changes,
    }
    result = system.run("celery", "-A", "tasks", "dead-letters", *options, **settings)
    assert "Traceback" not in result.stderr
    assert API_KEY not in result.stdout + result.stderr
    return result


def test_events_are_submitted_and_deleted(system: System, queue: Queue) -> None:
    events = [envelope("routed") for _ in range(25)]
    for event in events:
        queue.put(event)
    result = run_command(system, queue, "--rate", "1000")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.splitlines()[-1] == "25 accepted"
    assert queue.bodies() == []
    for event in events:
        assert system.settled(event["id"]).status == "completed"


def test_an_event_that_was_delivered_is_a_duplicate(system: System, queue: Queue) -> None:
    event = envelope()
    system.settle(event)
    for _ in range(2):
        queue.put(event)
    assert run_command(system, queue).returncode == 0
    assert queue.bodies() == []
    later = system.settle(envelope())  # queued after the duplicates
    assert later.status == "completed"
    assert {sink: len(calls) for sink, calls in system.calls(event).items()} == dict.fromkeys(
        SINKS, 1
    )


def test_what_is_not_accepted_stays_and_is_printed(system: System, queue: Queue) -> None:
    foreign, deep = envelope(source="another.source"), envelope()
    deep["detail"]["metadata"]["x"] = json.loads("[" * 40 + "]" * 40)
    for body in ("no event", foreign, deep, envelope()):
        queue.put(body)
    result = run_command(system, queue)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "1 accepted, 1 ignored, 1 not an event, 1 refused"
    lines = sorted(line.split("  ", 1)[1] for line in result.stdout.splitlines())
    reason = "SDK_CLIENT_ERROR MaximumRetryAttempts after 185 retries"
    refusal = "refused: 400 Bad Request: event: Nests deeper than 32."
    named = sorted([f"{foreign['id']}  {reason}  ignored", f"{deep['id']}  {reason}  {refusal}"])
    assert lines[:2] == named
    assert lines[2].startswith("message ")
    assert lines[2].endswith(f"  {reason}  not an event")
    left = [body if body == "no event" else json.loads(body)["id"] for body in queue.bodies()]
    assert sorted(left) == sorted(["no event", foreign["id"], deep["id"]])


def test_a_dry_run_only_lists(system: System, queue: Queue) -> None:
    events = [envelope() for _ in range(12)]
    for event in events:
        queue.put(event)
    result = run_command(system, queue, "--dry-run", INGEST_URL="", INGEST_API_KEYS="")
    assert (result.returncode, result.stderr) == (0, "12 in the queue\n")
    assert {line.split()[2] for line in result.stdout.splitlines()} == {e["id"] for e in events}
    assert events[0]["detail"]["interactionId"] not in result.stdout
    assert len(queue.bodies()) == 12
    assert all(system.claims.get(event["id"]) is None for event in events)


def test_a_wrong_api_key_is_an_error(system: System, queue: Queue) -> None:
    queue.put(envelope())
    result = run_command(system, queue, INGEST_API_KEYS="wrong")
    assert result.returncode == 1
    assert "ingest answers 401 Unauthorized" in result.stderr
    assert len(queue.bodies()) == 1


def test_a_wrong_url_of_ingest_loses_nothing(
    system: System, queue: Queue, ingest: IngestContainer
) -> None:
    queue.put(envelope())
    elsewhere = f"http://{HOST}:{ingest.port}/elsewhere"
    result = run_command(system, queue, "--ingest", elsewhere)
    assert result.returncode == 1
    assert "ingest answers 404 Not Found" in result.stderr
    assert len(queue.bodies()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"DEAD_LETTERS_URL": ""}, "set DEAD_LETTERS_URL"),
        ({"INGEST_URL": ""}, "set INGEST_URL"),
        ({"INGEST_API_KEYS": ""}, "set INGEST_API_KEYS"),
        ({"DEAD_LETTERS_URL": f"http://{HOST}/000000000000/nowhere"}, "SQS: "),
        ({"AWS_ENDPOINT_URL": f"http://{HOST}:{free_port()}"}, "SQS: "),
    ],
)
def test_a_missing_or_wrong_setting_is_named(
    system: System, queue: Queue, changes: dict[str, str], message: str
) -> None:
    result = run_command(system, queue, **changes)
    assert result.returncode != 0
    assert message in result.stderr
