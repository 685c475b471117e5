import io
import json
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.auth import is_known
from ingest.body import MAX_DEPTH, MAX_EVENTS, TooManyEventsError, parse
from ingest.publisher import BacklogError, BrokerAwayError
from ingest.wsgi import Ingest
from tasks.clock import from_rfc3339
from tasks.errors import InvalidEventError
from tasks.events import load_envelope
from tasks.settings import Role, load
from tests.support.samples import EVENT_ID, attempt, make_envelope, without
from tests.support.strategies import bent_envelopes, json_values


def as_body(value):
    return json.dumps(value).encode()


# ── Parsing a body ────────────────────────────────────────────────────────────────────────────


def test_one_envelope_is_one_event():
    assert parse(as_body(make_envelope())) == (
        [(load_envelope(make_envelope()), EVENT_ID, None)],
        False,
    )


@pytest.mark.parametrize("wrap", [list, lambda r: {"Records": r}], ids=["array", "Records"])
def test_batch_has_one_entry_per_event(wrap):
    raws = [make_envelope(id="one"), {"id": "two"}, 7, make_envelope(id="three")]
    entries, batch = parse(as_body(wrap(raws)))
    assert batch
    assert [entry.identifier for entry in entries] == ["one", "two", None, "three"]
    assert [entry.envelope is not None for entry in entries] == [True, False, False, True]
    assert [entry.error is not None for entry in entries] == [False, True, True, False]


@pytest.mark.parametrize("body", [b"[]", b'{"Records": []}'])
def test_a_batch_may_be_empty(body):
    assert parse(body) == ([], True)


@pytest.mark.parametrize("records", [None, {}, "x", 7, True], ids=repr)
def test_records_must_be_an_array(records):
    with pytest.raises(InvalidEventError, match=r"^Records: Not an array"):
        parse(as_body({"Records": records}))


@pytest.mark.parametrize("wrap", [list, lambda r: {"Records": r}], ids=["array", "Records"])
def test_request_has_a_maximum_of_events(wrap):
    assert len(parse(as_body(wrap([{}] * MAX_EVENTS))).entries) == MAX_EVENTS
    with pytest.raises(
        TooManyEventsError, match=f"Has {MAX_EVENTS + 1} events; at most {MAX_EVENTS}"
    ):
        parse(as_body(wrap([{}] * (MAX_EVENTS + 1))))


@pytest.mark.parametrize("identifier", [None, 7, ["x"], {}, True], ids=repr)
def test_id_that_is_no_string_is_not_an_identifier(identifier):
    (entry,), _ = parse(as_body([make_envelope(id=identifier)]))
    assert entry.identifier is None
    assert entry.error


@pytest.mark.parametrize(
    ("body", "error"),
    [
        pytest.param(b"", "body: Not JSON: Expecting value at line 1, column 1.", id="empty"),
        pytest.param(b"{", "body: Not JSON: ", id="broken-off"),
        pytest.param(b'{"a": 1}\n{', "body: Not JSON: Extra data at line 2", id="two-documents"),
        pytest.param(b"{'a': 1}", "body: Not JSON: ", id="single-quotes"),
        pytest.param(b"\xef\xbb\xbf{}", "body: Not JSON: ", id="byte-order-mark"),
        pytest.param('{"a": "é"}'.encode("latin-1"), "body: Not UTF-8.", id="latin-1"),
        pytest.param('{"a": 1}'.encode("utf-16"), "body: Not UTF-8.", id="utf-16"),
        pytest.param(b"\xed\xa0\x80", "body: Not UTF-8.", id="surrogate-in-utf-8"),
        pytest.param(b"\xff\x00\x01", "body: Not UTF-8.", id="bytes"),
        pytest.param(b'{"a": NaN}', "body: Not JSON: holds a number", id="nan"),
        pytest.param(b'{"a": -Infinity}', "body: Not JSON: holds a number", id="infinity"),
        pytest.param(b"[" + b"9" * 5_000 + b"]", "body: Not JSON: holds a number", id="huge-int"),
        pytest.param(b"[" * 100_000, "body: Nests deeper than 32.", id="open-brackets"),
        pytest.param(
            b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "body: Nests deeper than 32.", id="deep"
        ),
    ],
)
def test_body_that_is_not_json_in_utf_8_is_refused(body, error):
    with pytest.raises(InvalidEventError) as raised:
        parse(body)
    assert str(raised.value).startswith(error)


@pytest.mark.parametrize("body", [b"7", b'"x"', b"null", b"true"])
def test_json_that_is_no_object_is_refused(body):
    (entry,), batch = parse(body)
    assert not batch
    assert str(entry.error) == "event: Not a JSON object."


@pytest.mark.parametrize("of", ["objects", "arrays"])
def test_event_nests_up_to_the_maximum_depth(of):
    def error_of(depth):
        value = "bottom"
        for _ in range(depth - 2):  # the event and its detail are two levels
            value = {"deeper": value} if of == "objects" else [value]
        (entry,), _ = parse(as_body(make_envelope(detail={"metadata": value})))
        return entry.error

    assert error_of(MAX_DEPTH) is None
    assert str(error_of(MAX_DEPTH + 1)) == f"event: Nests deeper than {MAX_DEPTH}."


@pytest.mark.parametrize("kind", ["decimal", "bytes", "datetime", "unknown", None, [1]])
def test_object_that_messages_give_a_type_is_refused(kind):
    def error_of(value):
        (entry,), _ = parse(as_body(make_envelope(detail={"metadata": {"x": [value]}})))
        return entry.error

    typed = {"__type__": kind, "__value__": "1"}
    assert str(error_of(typed)).startswith("event: Has an object of just __type__ and __value__")
    assert str(error_of({"a": {"b": typed}})).startswith("event: Has an object of just __type__")
    assert error_of({**typed, "more": 1}) is None
    assert error_of({"__type__": kind}) is None


def test_number_beyond_a_float_refuses_its_event_alone():
    body = as_body([make_envelope(id="one", detail={"n": "@"}), make_envelope(id="two")])
    one, two = parse(body.replace(b'"@"', b"1e999")).entries
    assert str(one.error).startswith("event: ")
    assert two.envelope


def test_large_whole_numbers_are_kept_exactly():
    (entry,), _ = parse(as_body(make_envelope(detail={"n": 10**400})))
    assert entry.envelope.detail["n"] == 10**400


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_parsed_or_refused_naming_the_field(body):
    read, error = attempt(parse, body)
    if read is None:
        assert [found.field for found in error.errors] in (["body"], ["Records"])


@given(st.lists(bent_envelopes() | json_values, max_size=4))
def test_every_entry_has_an_envelope_or_an_error(raws):
    read, error = attempt(parse, as_body(raws))
    if read is None:  # NaN or an infinity somewhere
        assert [found.field for found in error.errors] == ["body"]
        return
    assert len(read.entries) == len(raws)
    for entry in read.entries:
        assert (entry.envelope is None) != (entry.error is None)


# ── API keys ──────────────────────────────────────────────────────────────────────────────────

KEYS = (b"new-key", b"old-key")


@pytest.mark.parametrize("given_key", ["new-key", "old-key"])
def test_each_of_several_keys_is_known(given_key):
    assert is_known(given_key, KEYS)


@pytest.mark.parametrize(
    "given_key",
    ["", "new", "new-key ", "NEW-KEY", "new-key,old-key", "new-keyx", "schlüssel", "ключ", "\x00"],
)
def test_other_keys_are_unknown(given_key):
    assert not is_known(given_key, KEYS)
    assert not is_known(given_key, ())


# ── The WSGI callable ─────────────────────────────────────────────────────────────────────────


class Queue:
    """Accepts events, or raises ``error``."""

    def __init__(self):
        self.published = []
        self.puts = 0
        self.error = None

    def put(self, envelopes, received_at):
        self.ping()
        assert from_rfc3339(received_at)
        self.puts += 1
        self.published += envelopes

    def ping(self):
        if self.error:
            raise self.error


@pytest.fixture
def queue():
    return Queue()


@pytest.fixture
def call(queue):
    """Make a request as a server would, checked for PEP 3333; returns status, headers, JSON."""
    settings = load({"INGEST_API_KEYS": "new-key,old-key", "INGEST_MAX_BYTES": "4096"}, Role.INGEST)
    app = validator(Ingest(settings, queue))

    def call(method, path, body=b"", **changes):
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "SCRIPT_NAME": "",
            "QUERY_STRING": "",
            "HTTP_X_API_KEY": "new-key",
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": "application/json; charset=utf-8",
            "HTTP_RANGE": "bytes=0-1048575",
            "HTTP_USER_AGENT": "Amazon/EventBridge/ApiDestinations",
            "wsgi.input": io.BytesIO(body),
        } | {name.replace("__", "."): value for name, value in changes.items()}
        environ = {name: value for name, value in environ.items() if value is not None}
        setup_testing_defaults(environ)
        started = []

        def start_response(status, headers, exc_info=None):
            assert exc_info is None
            started.append((status, dict(headers)))
            return lambda _: None

        answer = app(environ, start_response)
        content = b"".join(answer)
        answer.close()
        ((status, headers),) = started
        assert headers["Content-Type"] == "application/json"
        if method == "HEAD":
            assert content == b""
            return int(status[:3]), headers, None
        assert headers["Content-Length"] == str(len(content))
        return int(status[:3]), headers, json.loads(content)

    return call


@pytest.fixture
def post(call):
    def post(body, **changes):
        body = body if isinstance(body, bytes) else as_body(body)
        return call("POST", "/events", body, **changes)

    return post


def accepted(count, ignored=0, failures=()):
    return {
        "accepted": count,
        "ignored": ignored,
        "batchItemFailures": [{"itemIdentifier": identifier} for identifier in failures],
    }


def test_one_event_is_accepted_once_the_queue_has_it(post, queue):
    status, _, answer = post(make_envelope())
    assert (status, answer) == (202, accepted(1))
    assert queue.published == [load_envelope(make_envelope())]


@pytest.mark.parametrize("key", ["new-key", "old-key"])
def test_both_keys_of_a_rotation_are_accepted(post, key):
    assert post(make_envelope(), HTTP_X_API_KEY=key)[0] == 202


@pytest.mark.parametrize("key", [None, "", "another", "new-key,old-key", "sch\xfcssel"])
def test_a_wrong_key_or_none_is_401_and_nothing_is_read(post, queue, key):
    class Unreadable(io.BytesIO):
        def read(self, *_):
            raise AssertionError("read before the key was known")

    status, _, answer = post(make_envelope(), HTTP_X_API_KEY=key, wsgi__input=Unreadable())
    assert status == 401
    assert list(answer) == ["error"]
    assert queue.puts == 0


def test_a_foreign_source_is_ignored(post, queue):
    assert post(make_envelope(source="aws.ec2"))[::2] == (202, accepted(0, ignored=1))
    assert queue.puts == 0


@pytest.mark.parametrize("wrap", [list, lambda r: {"Records": r}], ids=["array", "Records"])
def test_valid_events_of_a_batch_are_published_at_once(post, queue, wrap):
    raws = [
        make_envelope(id="one"),
        make_envelope(id="two", time="noon"),
        make_envelope(id="three", source="aws.ec2"),
        7,
        make_envelope(id="five"),
    ]
    assert post(wrap(raws))[::2] == (202, accepted(2, ignored=1, failures=["two", None]))
    assert [envelope.id for envelope in queue.published] == ["one", "five"]
    assert queue.puts == 1


def test_an_empty_batch_is_accepted(post):
    assert post([])[::2] == (202, accepted(0))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"\xff", "body"),
        (b"7", "event"),
        (as_body({"Records": 7}), "Records"),
        (as_body(without(make_envelope(), "id")), "id"),
        (as_body(make_envelope(id="a b")), "id"),
        (as_body(make_envelope(time="noon")), "time"),
        (as_body(make_envelope(detail="x")), "detail"),
        (as_body(make_envelope(**{"detail-type": None})), "detail-type"),
    ],
)
def test_a_body_that_is_no_event_is_400_and_names_the_field(post, queue, body, field):
    status, _, answer = post(body)
    assert status == 400
    assert answer["error"].startswith(f"{field}: ")
    assert queue.puts == 0


def test_all_invalid_fields_are_reported_at_once(post):
    _, _, answer = post({"id": "a b", "time": "noon", "detail": 7})
    for field in ("id", "source", "detail-type", "time", "detail"):
        assert f"{field}: " in answer["error"]


@pytest.mark.parametrize("size", [4097, 10**9, 10**30])
def test_content_length_over_the_limit_is_413_unread(post, size):
    class Unreadable(io.BytesIO):
        def read(self, *_):
            raise AssertionError("read")

    status, headers, answer = post(b"", CONTENT_LENGTH=str(size), wsgi__input=Unreadable())
    assert status == 413
    assert headers["Connection"] == "close"
    assert "4096" in answer["error"]


def padded(size):
    body = as_body(make_envelope())
    return body + b" " * (size - len(body))


def test_body_of_the_maximum_size_is_accepted(post):
    assert post(padded(4096))[0] == 202


def test_too_many_events_are_413(post, queue):
    status, _, answer = post([1] * (MAX_EVENTS + 1))
    assert status == 413
    assert answer["error"].startswith("Records: ")
    assert queue.puts == 0


@pytest.mark.parametrize(("size", "status"), [(4096, 202), (4097, 413), (100_000, 413)])
def test_chunked_body_is_read_up_to_the_maximum_size(post, size, status):
    body = padded(size)
    assert post(body, CONTENT_LENGTH=None, wsgi__input_terminated=True)[0] == status


def test_without_a_length_there_is_no_body(post):
    class Endless(io.BytesIO):
        def read(self, *_):
            raise AssertionError("read a body that would never end")

    status, _, answer = post(b"", CONTENT_LENGTH=None, wsgi__input=Endless())
    assert (status, answer["error"][:5]) == (400, "body:")


def test_incomplete_body_is_400(post):
    body = as_body(make_envelope())
    assert post(body[:-10], CONTENT_LENGTH=str(len(body)))[0] == 400


def test_a_body_that_does_not_arrive_is_408(post):
    class Silent(io.BytesIO):
        def read(self, *_):
            raise TimeoutError

    status, headers, _ = post(b"", CONTENT_LENGTH="100", wsgi__input=Silent())
    assert (status, headers["Connection"]) == (408, "close")


def test_body_in_several_reads_is_joined(post):
    class Trickling(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 7))

    body = as_body(make_envelope())
    assert post(b"", CONTENT_LENGTH=str(len(body)), wsgi__input=Trickling(body))[0] == 202


@pytest.mark.parametrize("error", [BrokerAwayError("TimeoutError"), BacklogError("100000 wait")])
def test_queue_that_fails_is_503_with_retry_after(post, queue, error):
    queue.error = error
    for body in (make_envelope(), [make_envelope(), 7]):
        status, headers, answer = post(body)
        assert status == 503
        assert int(headers["Retry-After"]) > 0
        assert str(error) in answer["error"]


def test_request_without_events_needs_no_queue(post, queue):
    queue.error = BrokerAwayError("x")
    assert post(make_envelope(source="aws.ec2"))[0] == 202
    assert post(b"{")[0] == 400


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_needs_no_key(call, queue, method):
    assert call(method, "/healthz", HTTP_X_API_KEY=None)[0] == 200
    assert call(method, "/readyz", HTTP_X_API_KEY=None)[0] == 200
    queue.error = BrokerAwayError("ConnectionError")
    assert call(method, "/healthz")[0] == 200
    status, headers, _ = call(method, "/readyz")
    assert (status, int(headers["Retry-After"]) > 0) == (503, True)


def test_health_reports_the_state(call, queue):
    assert call("GET", "/healthz")[2] == {"status": "live"}
    assert call("GET", "/readyz")[2] == {"status": "ready"}
    queue.error = BrokerAwayError("ConnectionError")
    assert call("GET", "/readyz")[2] == {"error": "broker away: ConnectionError"}


@pytest.mark.parametrize(
    "path", ["/", "/event", "/events/", "/Events", "/events/1", "//events", ""]
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE"])
def test_anything_else_is_404(call, method, path):
    assert call(method, path or "/favicon.ico")[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/events", "POST"),
        ("HEAD", "/events", "POST"),
        ("PUT", "/events", "POST"),
        ("DELETE", "/events", "POST"),
        ("OPTIONS", "/events", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("POST", "/readyz", "GET, HEAD"),
    ],
)
def test_another_method_is_405_with_allow(call, method, path, allow):
    status, headers, _ = call(method, path)
    assert (status, headers["Allow"]) == (405, allow)


def test_a_refusal_is_logged_without_the_event(post, caplog):
    with caplog.at_level("INFO"):
        post(make_envelope(id="Jane Doe 4711", time="Jane", detail="Jane"))
        post([make_envelope(time="Jane", detail="Jane")])
    assert caplog.records
    assert "Jane" not in caplog.text


@given(json_values | bent_envelopes())
def test_any_json_gets_an_answer(raw):
    settings = load({"INGEST_API_KEYS": "k"}, Role.INGEST)
    started = []
    body = as_body(raw)
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/events",
        "HTTP_X_API_KEY": "k",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    answer = Ingest(settings, Queue())(environ, lambda *arguments: started.append(arguments))
    assert started[0][0].split()[0] in ("202", "400")
    assert isinstance(json.loads(b"".join(answer)), dict)
