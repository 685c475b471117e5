"""Moves events from EventBridge's dead-letter queue in SQS to ingest.

The body of a message is the event as EventBridge would have sent it; its attributes give the
reason (docs/facts.md, E16).

A message is deleted after ingest has answered 202, so an interrupted run loses nothing: an event
that was sent and not deleted is sent again by the next run, and is a duplicate then.
"""

import json
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
import requests
from botocore.config import Config

from tasks.delivery.backoff import retry_delay
from tasks.delivery.http import BASE_HEADERS, send
from tasks.errors import DeliveryError, IngestError, InvalidEventError, TransientDeliveryError
from tasks.events import load_envelope
from tasks.settings import Settings
from tasks.sinks import Policy

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: Seconds that a received message is invisible to other consumers.
VISIBILITY_TIMEOUT = 600

#: Attempts to submit one event, and the waits between them.
RETRY_POLICY = Policy(max_attempts=6, backoff_base=2, backoff_cap=30, retry_after_cap=30)


class SubmitResult(StrEnum):
    """The result for one message. All but accepted ones stay in the queue."""

    ACCEPTED = "accepted"  # ingest has the event
    NOT_AN_EVENT = "not an event"  # the body is no EventBridge envelope
    IGNORED = "ignored"  # its source is not EVENT_SOURCE
    REFUSED = "refused"  # ingest refused it for good


class DeadLetter(NamedTuple):
    """One message of the queue."""

    message_id: str
    body: str
    attributes: Mapping[str, str]
    sent_at: float  # seconds since the epoch

    @property
    def event_id(self) -> str | None:
        """The id of its event; None if the body is no event."""
        try:
            return load_envelope(json.loads(self.body)).id
        except (ValueError, RecursionError, InvalidEventError):
            return None


class DeadLetters:
    """A dead-letter queue; at the end of ``with``, remaining messages become visible again."""

    def __init__(self, client: "SQSClient", url: str) -> None:
        """Receive nothing yet."""
        self._client = client
        self._url = url
        self._handles: dict[str, str] = {}

    def __enter__(self) -> "DeadLetters":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Make messages that were received and not deleted visible at once."""
        remaining = [
            {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0}
            for number, handle in enumerate(self._handles.values())
        ]
        for start in range(0, len(remaining), 10):  # the size of a batch
            batch: Any = remaining[start : start + 10]
            self._client.change_message_visibility_batch(QueueUrl=self._url, Entries=batch)

    def __len__(self) -> int:
        """Return about how many messages there are."""
        name: Any = "ApproximateNumberOfMessages"
        answer = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=[name])
        return int(answer["Attributes"][name])

    def __iter__(self) -> Iterator[DeadLetter]:
        """Yield each message once, until there are no more."""
        while messages := self._receive():
            # A known message was not deleted, and its visibility timeout has passed.
            new = [message for message in messages if message["MessageId"] not in self._handles]
            self._handles |= {each["MessageId"]: each["ReceiptHandle"] for each in messages}
            yield from map(_message, new)

    def _receive(self) -> list[Any]:
        answer: Any = self._client.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=2,  # long polling: short polling may miss messages
            VisibilityTimeout=VISIBILITY_TIMEOUT,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["SentTimestamp"],
        )
        messages: list[Any] = answer.get("Messages", [])
        return messages

    def delete(self, message: DeadLetter) -> None:
        """Delete a message that was received."""
        handle = self._handles.pop(message.message_id)
        self._client.delete_message(QueueUrl=self._url, ReceiptHandle=handle)


def _message(message: Mapping[str, Any]) -> DeadLetter:
    attributes = message.get("MessageAttributes", {})
    return DeadLetter(
        message["MessageId"],
        message["Body"],
        {name: str(value.get("StringValue", "")) for name, value in attributes.items()},
        int(message["Attributes"]["SentTimestamp"]) / 1_000,
    )


class IngestClient:
    """Sends events to ingest, as EventBridge does."""

    def __init__(self, session: requests.Session, url: str, key: str) -> None:
        """Send nothing yet. ``url`` is where events are posted, ``key`` an API key of ingest."""
        self._session = session
        self._url = url
        self._key = key

    def submit(self, message: DeadLetter) -> tuple[SubmitResult, str]:
        """Send an event; return the result and, where ingest refused it, the reason.

        Raises:
            IngestError: ingest is unavailable after all attempts, or rejects the API key.
        """
        if message.event_id is None:
            return SubmitResult.NOT_AN_EVENT, ""
        for attempt in range(1, RETRY_POLICY.max_attempts + 1):
            try:
                return self._send(message.body.encode())
            except TransientDeliveryError as error:
                if attempt == RETRY_POLICY.max_attempts:
                    raise IngestError(f"ingest is unavailable: {error}") from None
                time.sleep(retry_delay(attempt, RETRY_POLICY, error.retry_after))
        raise AssertionError  # the last attempt returned or raised

    def _send(self, body: bytes) -> tuple[SubmitResult, str]:
        headers = {**BASE_HEADERS, "Content-Type": "application/json", "x-api-key": self._key}
        response = send(self._session, self._url, body, headers, timeout=(3, 10))
        fields = response.fields
        match response.error:
            case None if response.status == 202 and fields.get("accepted") == 1:
                return SubmitResult.ACCEPTED, ""
            case None if response.status == 202 and fields.get("ignored") == 1:
                return SubmitResult.IGNORED, ""
            case TransientDeliveryError() as error:
                raise error
            case DeliveryError() as error if response.status in (400, 413):
                return SubmitResult.REFUSED, f"{error}: {fields.get('error')}"
            case error:
                reason = f"ingest answers {error}" if error else "this server is not ingest"
                raise IngestError(f"{reason} (see --ingest, INGEST_URL, INGEST_API_KEYS)")


def connect(settings: Settings, url: str) -> DeadLetters:
    """Return the queue, with bounded waits; boto3 finds the credentials."""
    client = boto3.client(
        "sqs",
        region_name=settings.aws_region,
        config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 4}),
    )
    return DeadLetters(client, url)
