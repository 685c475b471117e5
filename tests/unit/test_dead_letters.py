import json

import pytest
import requests

from tasks.delivery import backoff
from tasks.errors import IngestError
from tasks.recovery import dead_letters
from tasks.recovery.dead_letters import DeadLetter, DeadLetters, IngestClient, SubmitResult
from tests.support.loopback import answers, sends_and_closes, sink_that
from tests.support.samples import EVENT_ID, make_envelope, without


def dead_letter(body):
    text = body if isinstance(body, str) else json.dumps(body)
    return DeadLetter("message-1", text, {}, 0.0)


EVENT = dead_letter(make_envelope())


@pytest.fixture
def waits(monkeypatch):
    """The waits between attempts, which are the longest that the jitter allows."""
    waits = []
    monkeypatch.setattr(backoff.random, "uniform", lambda _least, most: most)
    monkeypatch.setattr(dead_letters.time, "sleep", waits.append)
    return waits


def submit(script, event=EVENT):
    with sink_that(script) as server, requests.Session() as session:
        session.trust_env = False
        return IngestClient(session, server.url, "s3cr3t").submit(event), server.requests


def accepts(**counts):
    return answers("202 Accepted", body=json.dumps(counts).encode())


class FakeSqs:
    """The calls of SQS that are used; messages are received in the given batches."""

    def __init__(self, *batches):
        self.batches = [*batches, ()]
        self.deleted = []
        self.released = []

    def receive_message(self, **_):
        return {
            "Messages": [
                {
                    "MessageId": name.split("/")[0],
                    "ReceiptHandle": name,
                    "Body": "{}",
                    "Attributes": {"SentTimestamp": "1769860800000"},
                }
                for name in self.batches.pop(0)
            ]
        }

    def delete_message(self, **given):
        self.deleted.append(given["ReceiptHandle"])

    def change_message_visibility_batch(self, **given):
        assert len({entry["Id"] for entry in given["Entries"]}) == len(given["Entries"]) <= 10
        self.released += [entry["ReceiptHandle"] for entry in given["Entries"]]


def test_a_message_is_yielded_once_however_often_received():
    sqs = FakeSqs(["a/1", "b/1"], ["a/2"], ["a/3", "c/1"])
    yielded = []
    with DeadLetters(sqs, "url") as messages:
        for message in messages:
            yielded.append(message.message_id)
            if message.message_id != "a":
                messages.delete(message)
    assert yielded == ["a", "b", "c"]
    assert sqs.deleted == ["b/1", "c/1"]
    assert sqs.released == ["a/3"]


def test_remaining_messages_become_visible_at_once():
    sqs = FakeSqs([f"{n}/1" for n in range(10)], [f"{n}/1" for n in range(10, 20)], ["20/1"])
    with DeadLetters(sqs, "url") as messages:
        for _ in zip(range(11), messages, strict=False):
            pass
    assert len(sqs.released) == 20


def test_an_event_has_its_id():
    assert EVENT.event_id == EVENT_ID


@pytest.mark.parametrize(
    "body",
    [
        "",
        "event",
        "[" * 100_000,
        [make_envelope()],
        {"Records": [make_envelope()]},
        without(make_envelope(), "detail"),
        make_envelope(id=7),
    ],
)
def test_what_is_no_event_is_not_submitted(body):
    assert dead_letter(body).event_id is None
    (result, _), requests = submit(accepts(accepted=1), dead_letter(body))
    assert result is SubmitResult.NOT_AN_EVENT
    assert requests == []


def test_an_event_is_submitted_unchanged(waits):
    body = json.dumps(make_envelope(time="2026-01-31T12:00:00Z"), indent=4)
    (result, _), (request,) = submit(accepts(accepted=1, ignored=0), dead_letter(body))
    assert result is SubmitResult.ACCEPTED
    assert request.body == body.encode()
    assert request.headers["x-api-key"] == "s3cr3t"
    assert request.headers["Content-Type"] == "application/json"


def test_an_event_of_another_source_is_ignored():
    assert submit(accepts(accepted=0, ignored=1))[0] == (SubmitResult.IGNORED, "")


@pytest.mark.parametrize("status", ["400 Bad Request", "413 Content Too Large"])
def test_an_invalid_event_is_refused(status):
    script = answers(status, body=b'{"error": "detail: Missing."}')
    result, reason = submit(script)[0]
    assert result is SubmitResult.REFUSED
    assert reason.startswith(status[:3])
    assert reason.endswith(": detail: Missing.")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (answers("401 Unauthorized"), "ingest answers 401 Unauthorized"),
        (answers("404 Not Found"), "ingest answers 404 Not Found"),
        (answers("302 Found", "Location: /"), "ingest answers 302 Found"),
        (answers("200 OK", body=b'{"accepted": 1}'), "this server is not ingest"),
        (answers("202 Accepted", body=b"thanks"), "this server is not ingest"),
        (answers("202 Accepted", body=b"7"), "this server is not ingest"),
        (accepts(), "this server is not ingest"),
    ],
)
def test_a_wrong_key_or_server_is_an_error_at_once(waits, script, message):
    with pytest.raises(IngestError) as raised:
        submit(script)
    assert str(raised.value).startswith(message)
    assert str(raised.value).endswith("(see --ingest, INGEST_URL, INGEST_API_KEYS)")
    assert "s3cr3t" not in str(raised.value)
    assert waits == []


def test_the_retry_after_of_ingest_is_obeyed(waits):
    scripts = iter([answers("503 Service Unavailable", "Retry-After: 7"), accepts(accepted=1)])

    def respond_in_turn(connection, over):
        next(scripts)(connection, over)

    (result, _), requests = submit(respond_in_turn)
    assert result is SubmitResult.ACCEPTED
    assert waits == [7.0]
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (answers("503 Service Unavailable"), "503 Service Unavailable"),
        (answers("429 Too Many Requests"), "429 Too Many Requests"),
        (sends_and_closes(), "connection failed"),
    ],
)
def test_attempts_to_submit_are_limited(waits, script, message):
    with pytest.raises(IngestError, match=f"ingest is unavailable: {message}"):
        submit(script)
    assert waits == [2, 4, 8, 16, 30]
