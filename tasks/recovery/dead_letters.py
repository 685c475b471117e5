"""Events that EventBridge gave up calling ingest with, brought back from their queue.

EventBridge puts the event itself into the message's body, as it would have sent it, and why it
gave up into the message's attributes: ``RULE_ARN``, ``TARGET_ARN``, ``ERROR_CODE``,
``ERROR_MESSAGE``, ``EXHAUSTED_RETRY_CONDITION``, ``RETRY_ATTEMPTS``.

A message is deleted once ingest has answered 202, so breaking off loses nothing: what was sent and
not deleted is sent again the next time, and is a duplicate then.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
import requests
from botocore.config import Config

from tasks.clock import now
from tasks.delivery.http import error_for_status, send
from tasks.errors import DeliveryError, IngestError, InvalidEventError, TransientDeliveryError
from tasks.events import load_envelope
from tasks.settings import Settings
from tasks.settings.http import DEFAULT_TLS

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: Seconds that a message is hidden from others once it was received.
HIDDEN_FOR = 600

#: How often ingest is asked to take an event, and the longest wait in between, in seconds.
TRIES, LONGEST_WAIT = 6, 30.0


class SubmitResult(StrEnum):
    """What became of a message. All but the accepted stay in the queue."""

    ACCEPTED = "accepted"  # ingest has it, and the queue has not
    NOT_AN_EVENT = "not an event"  # its body is no EventBridge envelope
    IGNORED = "ignored"  # ingest says that its source is none of ours
    REFUSED = "refused"  # ingest says that it can never take it


class DeadLetter(NamedTuple):
    """One message of the queue."""

    message_id: str
    body: str
    why: Mapping[str, str]
    sent_at: float  # seconds since the epoch

    @property
    def event_id(self) -> str | None:
        """The id of its event; None if it is none."""
        try:
            return load_envelope(json.loads(self.body)).id
        except (ValueError, RecursionError, InvalidEventError):
            return None


class DeadLetters:
    """A dead-letter queue; what is left of it at the end of ``with`` shows again to others."""

    def __init__(self, client: "SQSClient", url: str) -> None:
        """Receive nothing yet."""
        self._client = client
        self._url = url
        self._handles: dict[str, str] = {}

    def __enter__(self) -> "DeadLetters":
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let others see at once what was received and not deleted."""
        left = [
            {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0}
            for number, handle in enumerate(self._handles.values())
        ]
        for start in range(0, len(left), 10):  # SQS takes ten at once
            some: Any = left[start : start + 10]
            self._client.change_message_visibility_batch(QueueUrl=self._url, Entries=some)

    def __len__(self) -> int:
        """About how many there are."""
        name: Any = "ApproximateNumberOfMessages"
        answer = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=[name])
        return int(answer["Attributes"][name])

    def __iter__(self) -> Iterator[DeadLetter]:
        """Receive each message once, until there are no more."""
        while messages := self._receive():
            # One that is known has stayed, and shows again.
            new = [message for message in messages if message["MessageId"] not in self._handles]
            self._handles |= {
                message["MessageId"]: message["ReceiptHandle"] for message in messages
            }
            yield from map(_letter, new)

    def _receive(self) -> list[Any]:
        answer: Any = self._client.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=2,  # a short look may miss what is there
            VisibilityTimeout=HIDDEN_FOR,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["SentTimestamp"],
        )
        found: list[Any] = answer.get("Messages", [])
        return found

    def delete(self, letter: DeadLetter) -> None:
        """Delete a message that was received."""
        handle = self._handles.pop(letter.message_id)
        self._client.delete_message(QueueUrl=self._url, ReceiptHandle=handle)


def _letter(message: Mapping[str, Any]) -> DeadLetter:
    attributes = message.get("MessageAttributes", {})
    return DeadLetter(
        message["MessageId"],
        message["Body"],
        {name: str(given.get("StringValue", "")) for name, given in attributes.items()},
        int(message["Attributes"]["SentTimestamp"]) / 1_000,
    )


class Ingest:
    """The way to ingest, as EventBridge takes it."""

    def __init__(self, session: requests.Session, url: str, key: str) -> None:
        """Send nothing yet. ``url`` is where events are posted."""
        self._session = session
        self._url = url
        self._key = key

    def take(self, letter: DeadLetter) -> tuple[SubmitResult, str]:
        """Send an event; tell what became of it and, where ingest refused it, why.

        Raises:
            IngestError: ingest cannot be reached, is too busy for too long, or knows us not.
        """
        if letter.event_id is None:
            return SubmitResult.NOT_AN_EVENT, ""
        for attempt in range(TRIES):
            try:
                return self._send(letter.body.encode())
            except TransientDeliveryError as error:
                wait = 2.0**attempt if error.retry_after is None else error.retry_after
                if attempt == TRIES - 1:
                    raise IngestError(f"ingest takes nothing: {error}") from None
            time.sleep(min(wait, LONGEST_WAIT))  # the backoff, or what ingest asked for
        raise AssertionError  # the last attempt raised

    def _send(self, body: bytes) -> tuple[SubmitResult, str]:
        headers = {
            "User-Agent": "cxone-event-processor",
            "Content-Type": "application/json",
            "x-api-key": self._key,
        }
        answer = send(self._session, self._url, body, headers, timeout=(3, 10), tls=DEFAULT_TLS)
        said: dict[str, Any] = {}
        with suppress(ValueError, TypeError):
            said = dict(json.loads(answer.body))
        match error_for_status(answer.status, answer.retry_after, now()):
            case None if answer.status == 202 and said.get("accepted") == 1:
                return SubmitResult.ACCEPTED, ""
            case None if answer.status == 202 and said.get("ignored") == 1:
                return SubmitResult.IGNORED, ""
            case TransientDeliveryError() as error:
                raise error
            case DeliveryError() as error if answer.status in (400, 413):
                return SubmitResult.REFUSED, f"{error}: {said.get('error')}"
            case error:
                why = f"ingest answers {error}" if error else "what answers is not ingest"
                raise IngestError(f"{why} (see --ingest, INGEST_URL, INGEST_API_KEYS)")


def connect(settings: Settings, url: str) -> DeadLetters:
    """Make a client with bounded waits; credentials are found by boto3."""
    client = boto3.client(
        "sqs",
        region_name=settings.aws_region,
        config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 4}),
    )
    return DeadLetters(client, url)
