"""Ingest over real sockets: every row of its table in docs/interface.md, and malformed requests.

No worker runs here, so the messages that ingest publishes stay in Redis.
"""

import base64
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from tests.support.envelopes import Envelope, envelope
from tests.support.nodes import HOST, RedisContainer, running
from tests.support.system import API_KEY, Answer, IngestContainer
from tests.support.waiting import TIMEOUT

MAX_BYTES = 65_536

SECOND_KEY = "the-key-after-the-rotation"


@pytest.fixture(scope="module")
def broker(engines: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisContainer]:
    """Redis."""
    with running(RedisContainer(tmp_path_factory.mktemp("broker"))) as redis:
        yield redis


@pytest.fixture(scope="module")
def running_ingest(
    broker: RedisContainer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IngestContainer]:
    """Ingest, during a key rotation, with a low limit for bodies."""
    settings = {
        "REDIS_URL": broker.url,
        "INGEST_API_KEYS": f"{API_KEY}, {SECOND_KEY}",
        "INGEST_MAX_BYTES": str(MAX_BYTES),
    }
    with running(IngestContainer(tmp_path_factory.mktemp("ingest"), settings)) as ingest:
        yield ingest


@pytest.fixture
def ingest(running_ingest: IngestContainer, broker: RedisContainer) -> IngestContainer:
    """Ingest, with an empty queue."""
    broker.client.delete("events")
    return running_ingest


def queued(broker: RedisContainer) -> list[dict[str, Any]]:
    """The messages in the queue, oldest first."""
    return [json.loads(text) for text in reversed(broker.client.lrange("events", 0, -1))]


def queued_keys(broker: RedisContainer) -> list[str]:
    """The dedup keys of the messages in the queue."""
    return [arguments(message)[0] for message in queued(broker)]


def arguments(message: dict[str, Any]) -> list[Any]:
    """What ``process_event`` will be called with."""
    return list(json.loads(base64.b64decode(message["body"]))[0])


def talk(ingest: IngestContainer, sent: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes, and read until ingest closes the connection."""
    with socket.create_connection((HOST, ingest.port), timeout=TIMEOUT) as client:
        client.sendall(sent)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := client.recv(65_536):
            received += chunk
        return received


def status_of(response: bytes) -> int:
    """The status code of a raw answer."""
    return int(response.split(b" ", 2)[1])


def head(**headers: str) -> bytes:
    """The head of a POST with a valid key."""
    lines = {"Host": HOST, "x-api-key": API_KEY, "Connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST /events HTTP/1.1\r\n{fields}\r\n".encode()


def assert_refused(answer: Answer, status: int, *words: str) -> None:
    """The answer is a JSON error that names what is wrong, and nothing else."""
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    assert list(answer.json) == ["error"]
    for word in words:
        assert word in answer.json["error"]
    assert "Traceback" not in answer.json["error"]


def test_an_envelope_is_accepted_once_redis_has_it(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    event = envelope()
    answer = ingest.post(event)
    assert (answer.status, answer.json) == (
        202,
        {"accepted": 1, "ignored": 0, "batchItemFailures": []},
    )
    [message] = queued(broker)
    key, sent, _received_at = arguments(message)
    assert key == event["id"]
    assert sent["detail"] == event["detail"]
    assert message["headers"]["task"] == "process_event"
    assert message["headers"]["id"].startswith(f"{event['id']}.process.")
    assert message["headers"]["argsrepr"] == repr((event["id"],))
    assert message["headers"]["kwargsrepr"] == "{}"


def test_a_duplicate_is_accepted_too(ingest: IngestContainer, broker: RedisContainer) -> None:
    event = envelope()
    assert [ingest.post(event).status for _ in range(2)] == [202, 202]
    first, second = queued(broker)
    assert first["headers"]["id"] != second["headers"]["id"], "each can be the holder of the claim"


@pytest.mark.parametrize(
    "key", ["", "wrong", API_KEY[:-1], API_KEY + "x", f"{API_KEY}, {SECOND_KEY}", "schlüssel"]
)
def test_a_wrong_key_is_refused(ingest: IngestContainer, broker: RedisContainer, key: str) -> None:
    assert_refused(ingest.post(envelope(), x_api_key=key), 401, "x-api-key")
    assert queued(broker) == []


def test_no_key_is_refused(ingest: IngestContainer, broker: RedisContainer) -> None:
    answer = ingest.request("POST", "/events", json.dumps(envelope()))
    assert_refused(answer, 401, "x-api-key")
    assert queued(broker) == []


def test_both_keys_of_a_rotation_are_accepted(ingest: IngestContainer) -> None:
    for key in (API_KEY, SECOND_KEY):
        assert ingest.post(envelope(), x_api_key=key).status == 202


NOT_JSON = [
    b"",
    b"not json",
    b'{"id": "a",}',
    b'{"id": NaN}',
    b'{"id": Infinity}',
    b'{"id": -Infinity}',
    b'{"id": 1' + b"0" * 5000 + b"}",
    b'{"id": "\xff"}',
    "{}".encode("utf-16"),
    b'{"id": "a"} {}',
    b"[" * 30_000,
    b'{"a":' * 10_000,
]


@pytest.mark.parametrize("body", NOT_JSON, ids=[repr(body[:12]) for body in NOT_JSON])
def test_what_is_not_json_is_refused(
    ingest: IngestContainer, broker: RedisContainer, body: bytes
) -> None:
    assert_refused(ingest.post(body), 400, "body: ")
    assert queued(broker) == []


WRONG_ENVELOPES = [
    ("null", "event"),
    ('"text"', "event"),
    ("7", "event"),
    (envelope(id=None), "id"),
    (envelope() | {"id": 7}, "id"),
    (envelope(id=""), "id"),
    (envelope(id="a b"), "id"),
    (envelope(id="a@b"), "id"),
    (envelope(id="a\n"), "id"),
    (envelope(id="x" * 129), "id"),
    (envelope(source=None), "source"),
    (envelope(detail_type=None), "detail-type"),
    (envelope(time="yesterday"), "time"),
    (envelope(time="2026-02-30T00:00:00Z"), "time"),
    (envelope() | {"detail": None}, "detail"),
    (envelope() | {"detail": []}, "detail"),
    (envelope(replay_name="a b"), "replay-name"),
    (json.dumps(envelope()).replace("billing", "").replace("resolved", "\\ud800"), "event"),
]


@pytest.mark.parametrize(("body", "field"), WRONG_ENVELOPES)
def test_a_wrong_envelope_is_refused_naming_the_field(
    ingest: IngestContainer, broker: RedisContainer, body: Any, field: str
) -> None:
    sent = body.encode() if isinstance(body, str) else body
    assert_refused(ingest.post(sent), 400, f"{field}: ")
    assert queued(broker) == []


def nested(depth: int) -> Envelope:
    """Return an envelope whose JSON has this depth."""
    inner: dict[str, Any] = {}
    for _ in range(depth - 3):  # the envelope, its detail and its metadata are three
        inner = {"deeper": inner}
    return envelope(metadata={"customer": inner})


def test_deep_nesting_is_refused(ingest: IngestContainer, broker: RedisContainer) -> None:
    assert ingest.post(nested(30)).status == 202
    assert_refused(ingest.post(nested(40)), 400, "event: Nests deeper than 32.")
    assert len(queued(broker)) == 1


def test_content_length_over_the_limit_is_refused_unread(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    begun = time.monotonic()
    response = talk(ingest, head(Content_Length=str(10**10)))  # and not one byte of it
    assert time.monotonic() - begun < 1
    assert status_of(response) == 413
    assert b"body: larger than" in response


def test_a_body_that_is_too_large_is_refused(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    event = envelope(metadata={"customer": "x" * MAX_BYTES})
    assert_refused(ingest.post(event), 413, "body", str(MAX_BYTES))
    assert queued(broker) == []


def chunked(body: bytes, size: int) -> Iterator[bytes]:
    """Cut a body, for http.client to send in chunks."""
    return (body[start : start + size] for start in range(0, len(body), size))


@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_a_chunked_body_is_accepted(
    ingest: IngestContainer, broker: RedisContainer, size: int
) -> None:
    event = envelope()
    body = json.dumps(event).encode()
    answer = ingest.request(
        "POST", "/events", chunked(body, size), {"x-api-key": API_KEY}, encode_chunked=True
    )
    assert (answer.status, queued_keys(broker)) == (202, [event["id"]])


def test_chunked_body_over_the_limit_is_refused_before_its_end(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    chunk = b"%x\r\n%b\r\n" % (4096, b"x" * 4096)
    sent = head(Transfer_Encoding="chunked") + chunk * (MAX_BYTES // 4096 + 1)
    begun = time.monotonic()
    response = talk(ingest, sent)  # the chunk that would end the body never comes
    assert time.monotonic() - begun < 1
    assert status_of(response) == 413
    assert queued(broker) == []


def test_chunked_body_far_over_the_limit_is_refused(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    body = b"x" * (4 * MAX_BYTES)
    headers = {"x-api-key": API_KEY}
    answer = ingest.request("POST", "/events", chunked(body, 4096), headers, encode_chunked=True)
    assert_refused(answer, 413, "body", str(MAX_BYTES))


def test_body_that_does_not_arrive_times_out(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    begun = time.monotonic()
    response = talk(ingest, head(Content_Length="100") + b'{"id": ')
    assert time.monotonic() - begun < 6
    assert status_of(response) == 408
    assert ingest.post(envelope()).status == 202


def test_incomplete_body_is_refused(ingest: IngestContainer, broker: RedisContainer) -> None:
    body = json.dumps(envelope()).encode()
    response = talk(ingest, head(Content_Length=str(len(body))) + body[:-10], half_close=True)
    assert status_of(response) == 400
    assert queued(broker) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Length": "-1"},
        {"Content_Length": "ten"},
        {"Content_Length": "1", "Transfer_Encoding": "chunked"},
        {"Transfer_Encoding": "gzip"},
        {"X Y": "<>"},
    ],
)
def test_a_request_that_is_not_http_is_refused(
    ingest: IngestContainer, broker: RedisContainer, headers: dict[str, str]
) -> None:
    response = talk(ingest, head(**headers) + b"0\r\n\r\n")
    assert status_of(response) in {400, 501}
    assert b"Traceback" not in response
    top, _, body = response.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in top
    assert b"Content-Type: application/json" in top
    assert json.loads(body)["error"]
    assert queued(broker) == []


def test_unknown_headers_are_ignored(ingest: IngestContainer) -> None:
    answer = ingest.post(
        envelope(),
        Range="bytes=5-10",
        If_Match='"x"',
        Accept="image/png",
        Content_Type="text/plain",
        X_Amzn_Trace_Id="Root=1-2-3",
        Expect="100-continue",
    )
    assert answer.status == 202
    assert "Content-Range" not in answer.headers


def test_no_header_changes_the_path(ingest: IngestContainer) -> None:
    request = head(Content_Length="2").replace(b"\r\n\r\n", b"\r\nSCRIPT_NAME: /x\r\n\r\n")
    assert status_of(talk(ingest, request + b"[]")) == 202


def test_refused_body_is_not_read_as_the_next_request(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    hidden = head(Content_Length="2") + b"{}"
    with closing(ingest.connect()) as connection:
        connection.request("POST", "/events", hidden, {"x-api-key": "wrong"})
        with connection.getresponse() as response:
            assert (response.status, bool(response.read())) == (401, True)
        connection.request("GET", "/healthz")
        with connection.getresponse() as response:
            assert (response.status, json.load(response)) == (200, {"status": "live"})


def test_one_connection_carries_many_events(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    events = [envelope() for _ in range(3)]
    with closing(ingest.connect()) as connection:
        for event in events:
            connection.request("POST", "/events", json.dumps(event), {"x-api-key": API_KEY})
            with connection.getresponse() as response:
                assert (response.status, json.load(response)["accepted"]) == (202, 1)
    assert queued_keys(broker) == [event["id"] for event in events]


@pytest.mark.parametrize(
    "wrap", [list, lambda events: {"Records": events}], ids=["array", "Records"]
)
def test_valid_events_of_a_batch_are_accepted(
    ingest: IngestContainer, broker: RedisContainer, wrap: Any
) -> None:
    good, foreign, another = envelope(), envelope(source="another.source"), envelope()
    wrong_time = envelope(time="yesterday")
    batch = [good, wrong_time, foreign, envelope(id=None), "text", another, nested(40)]
    answer = ingest.post(wrap(batch))
    assert (answer.status, answer.json) == (
        202,
        {
            "accepted": 2,
            "ignored": 1,
            "batchItemFailures": [
                {"itemIdentifier": wrong_time["id"]},
                {"itemIdentifier": None},
                {"itemIdentifier": None},
                {"itemIdentifier": batch[-1]["id"]},  # type: ignore[index]
            ],
        },
    )
    assert queued_keys(broker) == [good["id"], another["id"]]


def test_a_batch_of_one_and_a_batch_of_none(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    assert ingest.post([envelope()]).json["accepted"] == 1
    assert ingest.post([]).json == {"accepted": 0, "ignored": 0, "batchItemFailures": []}
    assert len(queued(broker)) == 1


def test_records_must_be_an_array(ingest: IngestContainer) -> None:
    assert_refused(ingest.post({"Records": envelope()}), 400, "Records: ")


def test_too_many_records_are_refused(ingest: IngestContainer, broker: RedisContainer) -> None:
    assert_refused(ingest.post([{}] * 1001), 413, "Records: ", "1000")
    assert queued(broker) == []


@pytest.mark.parametrize("path", ["/", "/event", "/events/", "/events/7", "/%2e%2e/"])
def test_any_other_path_is_not_found(ingest: IngestContainer, path: str) -> None:
    assert_refused(ingest.request("GET", path), 404)
    assert_refused(ingest.request("POST", path, b"{}", {"x-api-key": API_KEY}), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/events", "POST"),
        ("PUT", "/events", "POST"),
        ("DELETE", "/events", "POST"),
        ("OPTIONS", "/events", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/readyz", "GET, HEAD"),
    ],
)
def test_any_other_method_is_not_allowed(
    ingest: IngestContainer, method: str, path: str, allowed: str
) -> None:
    answer = ingest.request(method, path)
    assert_refused(answer, 405)
    assert answer.headers["Allow"] == allowed


@pytest.mark.parametrize(
    ("path", "status"), [("/healthz", 200), ("/readyz", 200), ("/events", 405), ("/", 404)]
)
def test_head_answers_without_a_body(ingest: IngestContainer, path: str, status: int) -> None:
    response = talk(
        ingest, f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    )
    top, _, body = response.partition(b"\r\n\r\n")
    assert (status_of(response), body) == (status, b"")
    assert b"Content-Length" in top


def test_health_needs_no_key(ingest: IngestContainer) -> None:
    assert ingest.request("GET", "/healthz").json == {"status": "live"}
    assert ingest.request("GET", "/readyz").json == {"status": "ready"}
    assert ingest.request("GET", "/healthz?from=a-load-balancer").status == 200


def test_a_hundred_at_once_are_all_accepted(
    ingest: IngestContainer, broker: RedisContainer
) -> None:
    events = [envelope() for _ in range(100)]
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ingest.post, events))
    assert {answer.status for answer in answers} == {202}
    assert set(queued_keys(broker)) == {event["id"] for event in events}


def test_no_request_made_it_log_a_traceback(running_ingest: IngestContainer) -> None:
    assert running_ingest.status == "running"
    assert "Traceback" not in running_ingest.logs()
