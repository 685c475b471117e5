import json

import pytest
import requests

from tasks.errors import IngestError
from tasks.recovery import dead_letters
from tasks.recovery.dead_letters import TRIES, DeadLetter, DeadLetters, Ingest, SubmitResult
from tests.support.loopback import answers, sends_and_closes, sink_that
from tests.support.samples import EVENT_ID, make_envelope, without


def letter(body):
    text = body if isinstance(body, str) else json.dumps(body)
    return DeadLetter("message-1", text, {}, 0.0)


EVENT = letter(make_envelope())


@pytest.fixture
def waits(monkeypatch):
    waits = []
    monkeypatch.setattr(dead_letters.time, "sleep", waits.append)
    return waits


def take(script, event=EVENT):
    with sink_that(script) as server, requests.Session() as session:
        session.trust_env = False
        return Ingest(session, server.url, "s3cr3t").take(event), server.requests


def accepts(**said):
    return answers("202 Accepted", body=json.dumps(said).encode())


class Sqs:
    """SQS, as far as it is asked: messages in the batches that they are received in."""

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


def test_a_message_that_stays_is_looked_at_once_however_often_it_shows():
    sqs = Sqs(["a/1", "b/1"], ["a/2"], ["a/3", "c/1"])
    looked_at = []
    with DeadLetters(sqs, "url") as letters:
        for letter in letters:
            looked_at.append(letter.message_id)
            if letter.message_id != "a":
                letters.delete(letter)
    assert looked_at == ["a", "b", "c"]
    assert sqs.deleted == ["b/1", "c/1"]
    assert sqs.released == ["a/3"]


def test_what_was_not_got_to_shows_again_at_once():
    sqs = Sqs([f"{n}/1" for n in range(10)], [f"{n}/1" for n in range(10, 20)], ["20/1"])
    with DeadLetters(sqs, "url") as letters:
        for _ in zip(range(11), letters, strict=False):
            pass
    assert len(sqs.released) == 20


def test_an_event_knows_its_id():
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
def test_what_is_no_event_is_not_sent(body):
    assert letter(body).event_id is None
    (fate, _), requests = take(accepts(accepted=1), letter(body))
    assert fate is SubmitResult.NOT_AN_EVENT
    assert requests == []


def test_an_event_is_sent_as_it_came(waits):
    body = json.dumps(make_envelope(time="2026-01-31T12:00:00Z"), indent=4)
    (fate, _), (request,) = take(accepts(accepted=1, ignored=0), letter(body))
    assert fate is SubmitResult.ACCEPTED
    assert request.body == body.encode()
    assert request.headers["x-api-key"] == "s3cr3t"
    assert request.headers["Content-Type"] == "application/json"


def test_an_event_of_another_source_is_not_accepted():
    assert take(accepts(accepted=0, ignored=1))[0] == (SubmitResult.IGNORED, "")


@pytest.mark.parametrize("status", ["400 Bad Request", "413 Content Too Large"])
def test_an_event_that_can_never_be_taken_is_refused(status):
    script = answers(status, body=b'{"error": "detail: Missing."}')
    fate, why = take(script)[0]
    assert fate is SubmitResult.REFUSED
    assert why.startswith(status[:3])
    assert why.endswith(": detail: Missing.")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (answers("401 Unauthorized"), "ingest answers 401 Unauthorized"),
        (answers("404 Not Found"), "ingest answers 404 Not Found"),
        (answers("302 Found", "Location: /"), "ingest answers 302 Found"),
        (answers("200 OK", body=b'{"accepted": 1}'), "what answers is not ingest"),
        (answers("202 Accepted", body=b"thanks"), "what answers is not ingest"),
        (answers("202 Accepted", body=b"7"), "what answers is not ingest"),
        (accepts(), "what answers is not ingest"),
    ],
)
def test_where_nothing_can_be_taken_it_ends(waits, script, message):
    with pytest.raises(IngestError) as raised:
        take(script)
    assert str(raised.value).startswith(message)
    assert str(raised.value).endswith("(see --ingest, INGEST_URL, INGEST_API_KEYS)")
    assert "s3cr3t" not in str(raised.value)
    assert waits == []


def test_ingest_that_is_busy_is_asked_again_when_it_says(waits):
    scripts = iter([answers("503 Service Unavailable", "Retry-After: 7"), accepts(accepted=1)])

    def one_after_the_other(connection, over):
        next(scripts)(connection, over)

    (fate, _), requests = take(one_after_the_other)
    assert fate is SubmitResult.ACCEPTED
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
def test_patience_with_ingest_comes_to_an_end(waits, script, message):
    with pytest.raises(IngestError, match=f"ingest takes nothing: {message}"):
        take(script)
    assert waits == [2.0**n for n in range(TRIES - 1)]
