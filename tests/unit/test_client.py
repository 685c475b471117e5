import base64
import gzip
import json
import socket
import threading
import time
import traceback
from unittest.mock import ANY

import pytest
import requests
from requests.adapters import BaseAdapter
from standardwebhooks import Webhook, WebhookVerificationError

from tasks.delivery.client import SinkClient
from tasks.errors import DeliveryError, TransientDeliveryError
from tasks.events import canonical_json
from tasks.settings import SinkSettings, Tls, load
from tasks.sinks import SINKS, Policy
from tests.support.certificates import Authority
from tests.support.loopback import (
    answers,
    sends_and_closes,
    sends_and_trickles,
    sends_and_waits,
    sink_that,
)

# ── One attempt, over a real socket ───────────────────────────────────────────────────────────

BODY = {"type": "created", "interactionId": "Jané-4711", "accountId": "account-1"}
KEY = "6a7e8feb-b491-4cf7-a9f1-bf3703467718@june:crm"
PATIENT = Policy(connect_timeout=2, read_timeout=5)
HASTY = Policy(connect_timeout=2, read_timeout=0.5)

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def session():
    with requests.Session() as session:
        session.trust_env = False  # no proxy for loopback
        yield session


def post(session, url, policy=PATIENT, **settings):
    sink = SinkSettings(sink=SINKS["crm"], policy=policy, url=url, **settings)
    SinkClient(sink, session).post(BODY, KEY)


def error_of(session, url, policy=PATIENT, kind=TransientDeliveryError):
    """The error of one attempt; its traceback, which Flower shows, contains nothing private."""
    with pytest.raises(DeliveryError) as raised:
        post(session, url, policy)
    assert type(raised.value) is kind
    shown = "".join(traceback.format_exception(raised.value))
    for private in ("127.0.0.1", "secret", "4711", "account-1"):
        assert private not in shown
    return raised.value


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted", "204 No Content"])
def test_a_2xx_is_a_delivery(session, status):
    with sink_that(answers(status)) as sink:
        post(session, sink.url)
    assert len(sink.requests) == 1


def test_the_request_is_as_documented(session):
    with sink_that(answers("200 OK")) as sink:
        post(session, sink.url)
    (request,) = sink.requests
    assert request.line == "POST /secret-path?token=secret-token HTTP/1.1"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Idempotency-Key"] == KEY
    assert request.headers["Content-Length"] == str(len(request.body))
    assert request.body == canonical_json(BODY)
    assert json.loads(request.body) == BODY


def test_every_attempt_is_the_same_request(session):
    with sink_that(answers("503 Service Unavailable")) as sink:
        for _ in range(2):
            error_of(session, sink.url)
    first, second = sink.requests
    assert first.body == second.body
    assert first.headers.items() == second.headers.items()


def in_chunks(connection, _over):
    connection.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n6\r\nthanks\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "script",
    [answers("200 OK", body=b"thanks"), answers("204 No Content"), in_chunks],
    ids=["of-known-length", "empty", "in-chunks"],
)
def test_a_connection_is_reused_after_a_read_response(session, script):
    with sink_that(script) as sink:
        for _ in range(3):
            post(session, sink.url)
    assert sink.connections == 1
    assert len(sink.requests) == 3


def test_a_refusal_is_final_and_keeps_an_excerpt(session):
    with sink_that(answers("422 Unprocessable Entity", body=b'{"field": "type"}')) as sink:
        error = error_of(session, sink.url, kind=DeliveryError)
    assert str(error).startswith("422 ")
    assert "field" not in str(error)
    assert error.response == '{"field": "type"}'


def test_an_excerpt_contains_no_secret_and_no_event_data(session):
    def echoes_the_request(connection, _over):
        (request,) = sink.requests
        request_text = "\n".join(
            [request.line, str(request.headers), request.body.decode()]
        ).encode()
        answers("400 Bad Request", body=b"You sent: " + request_text)(connection, _over)

    settings = {"CRM_BASIC_AUTH": "operator:p4ssw0rd", "CRM_HEADERS": '{"X-Tenant": "h1dden"}'}
    with sink_that(echoes_the_request) as sink:
        client = SinkClient(load({"CRM_ENDPOINT": sink.url, **settings}).sinks["crm"], session)
        with pytest.raises(DeliveryError) as raised:
            client.post(BODY, KEY)
    response = raised.value.response
    assert response.startswith("You sent: ")
    coded = base64.b64encode(b"operator:p4ssw0rd").decode()
    for private in ("secret", "operator", "p4ssw0rd", coded, "h1dden", *BODY.values()):
        assert private not in response


def test_a_response_without_a_body_has_no_excerpt(session):
    with sink_that(answers("500 Internal Server Error")) as sink:
        assert error_of(session, sink.url).response is None


@pytest.mark.parametrize(
    ("script", "response"),
    [
        (sends_and_closes(b"HTTP/1.1 500 No\r\n\r\n", b"x" * 200_000), "x" * 1024),
        (sends_and_closes(b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\nJan\xc3\xa9"), None),
        (sends_and_waits(b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\nsorry"), "sorry"),
        (answers("500 No", "Content-Encoding: gzip", body=gzip.compress(b"\0" * 10**7)), ANY),
    ],
    ids=["endless", "ends-inside-a-secret", "falls-silent", "compressed"],
)
def test_a_bounded_excerpt_of_a_response_is_kept(session, script, response):
    with sink_that(script) as sink:
        assert error_of(session, sink.url, HASTY).response == response


def test_the_retry_after_of_a_busy_sink_is_read(session):
    with sink_that(answers("429 Too Many Requests", "Retry-After: 7")) as sink:
        error = error_of(session, sink.url)
    assert str(error) == "429 Too Many Requests"
    assert error.retry_after == 7.0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(session, status):
    with sink_that(answers("200 OK")) as elsewhere:
        script = answers(f"{status} Moved", f"Location: {elsewhere.url}")
        with sink_that(script) as sink:
            error = error_of(session, sink.url, kind=DeliveryError)
    assert str(error).startswith(str(status))
    assert elsewhere.requests == []
    assert len(sink.requests) == 1


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(sends_and_closes(), id="closes-before-answering"),
        pytest.param(sends_and_closes(b"HTTP/1.1 20"), id="closes-in-the-status-line"),
        pytest.param(sends_and_closes(b"no HTTP at all, secret 4711\r\n\r\n"), id="no-http"),
        pytest.param(sends_and_closes(b"HTTP/1.1 OK secret\r\n\r\n"), id="no-status"),
        pytest.param(sends_and_closes(OK, b"X: " + b"x" * 70_000 + b"\r\n\r\n"), id="long-header"),
    ],
)
def test_what_is_no_http_response_is_retried(session, script):
    with sink_that(script) as sink:
        error = error_of(session, sink.url)
    assert str(error).startswith("connection failed: ")
    assert error.counts_as_failure


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(sends_and_closes(OK, b"Content-Length: 100\r\n\r\nsome"), id="closes"),
        pytest.param(
            sends_and_closes(OK, b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), id="bad-chunk"
        ),
        pytest.param(
            sends_and_closes(OK, b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nsome"),
            id="bad-gzip",
        ),
        pytest.param(sends_and_waits(OK, b"Content-Length: 100\r\n\r\nsome"), id="falls-silent"),
        pytest.param(sends_and_closes(OK, b"\r\n", b"x" * 200_000), id="is-long"),
    ],
)
def test_a_2xx_is_a_delivery_whatever_its_body(session, script):
    with sink_that(script) as sink:
        post(session, sink.url, HASTY)
    assert len(sink.requests) == 1


def test_a_slow_body_of_a_2xx_is_not_waited_for(session):
    with sink_that(sends_and_trickles(OK, b"\r\n", seconds=3)) as sink:
        began = time.monotonic()
        post(session, sink.url, HASTY)
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 2", OK], ids=["nothing", "a-bit", "no-end"])
def test_a_slow_response_is_retried(session, sent):
    with sink_that(sends_and_waits(sent)) as sink:
        error = error_of(session, sink.url, HASTY)
    assert str(error) == "no answer within 0.5 s"
    assert error.counts_as_failure


def test_a_refused_connection_is_retried(session):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    error = error_of(session, f"http://127.0.0.1:{port}/secret-path")
    assert str(error) == "connection failed: Connection refused"
    assert error.counts_as_failure


def test_a_sink_without_tls_is_retried(session):
    def answer_in_plain_text(listener):
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400 The plain HTTP request was sent to HTTPS\r\n\r\n")
            connection.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_in_plain_text, args=[listener])
        thread.start()
        error = error_of(session, f"https://127.0.0.1:{listener.getsockname()[1]}/secret-path")
        thread.join()
    assert str(error) == "TLS handshake failed"


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (requests.exceptions.ConnectTimeout, "no connection within 2 s"),
        (requests.exceptions.ReadTimeout, "no answer within 5 s"),
        (requests.exceptions.SSLError, "TLS handshake failed"),
        (requests.exceptions.ProxyError, "connection failed: ProxyError"),
        (requests.exceptions.ConnectionError, "connection failed: ConnectionError"),
        (OSError, "connection failed: OSError"),
    ],
)
def test_errors_of_requests_are_retried(session, raised, message):
    class Broken(BaseAdapter):
        def send(self, request, **_):
            raise raised(f"{request.url}: {request.body}")

        def close(self):
            pass

    session.mount("http://", Broken())
    assert str(error_of(session, "http://127.0.0.1/secret-path")) == message


@pytest.mark.parametrize(
    "host", ["a..b", "x" * 70 + ".example", "*.example"], ids=["empty-label", "long-label", "star"]
)
def test_an_impossible_host_is_a_failed_delivery(session, host):
    with pytest.raises(DeliveryError, match=r"^connection failed: ") as raised:
        post(session, f"http://{host}/secret-path", HASTY)
    assert host not in str(raised.value)


def test_a_broken_response_does_not_affect_the_next_request(session):
    scripts = iter([sends_and_closes(OK, b"Content-Length: 9\r\n\r\nx"), answers("200 OK")])

    def respond_in_turn(connection, over):
        next(scripts)(connection, over)

    with sink_that(respond_in_turn) as sink:
        for _ in range(2):
            post(session, sink.url, HASTY)
    assert [request.body for request in sink.requests] == [canonical_json(BODY)] * 2


# ── Headers and credentials ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("variable", "value", "header", "sent"),
    [
        ("CRM_BEARER_TOKEN", "t0ken", "Authorization", "Bearer t0ken"),
        ("CRM_BASIC_AUTH", "us\u00e9r:p:w", "Authorization", "Basic dXPDqXI6cDp3"),
        ("CRM_API_KEY", "X-Api-Key: k:1", "X-Api-Key", "k:1"),
        ("CRM_API_KEY", "Authorization: ApiKey k", "Authorization", "ApiKey k"),
        ("CRM_HEADERS", '{"X-Tenant": "acme", "User-Agent": "custom"}', "X-Tenant", "acme"),
        ("CRM_HEADERS", '{"X-Tenant": "acme", "User-Agent": "custom"}', "User-Agent", "custom"),
    ],
)
def test_headers_are_sent_as_they_are_set(session, variable, value, header, sent):
    with sink_that(answers("200 OK")) as sink:
        environment = {"CRM_ENDPOINT": sink.url, variable: value}
        SinkClient(load(environment).sinks["crm"], session).post(BODY, KEY)
    (request,) = sink.requests
    assert request.headers.get_all(header) == [sent]
    assert request.headers["Idempotency-Key"] == KEY
    assert request.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("variable", ["CRM_BEARER_TOKEN", "CRM_RATE"])
def test_credentials_in_netrc_are_not_sent(variable, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login netrc password netrc\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with sink_that(answers("200 OK")) as sink, requests.Session() as session:
        settings = load({"CRM_ENDPOINT": sink.url, variable: "1"})
        SinkClient(settings.sinks["crm"], session).post(BODY, KEY)
    assert sink.requests[0].headers["Authorization"] in (None, "Bearer 1")


# ── TLS ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def served(authority):
    return authority.issue("server")


def test_a_private_authority_can_be_set(session, authority, served):
    with sink_that(answers("200 OK"), authority.server(served)) as sink:
        post(session, sink.url, tls=Tls(ca_file=str(authority.file)))
        assert str(error_of(session, sink.url)) == "TLS handshake failed"
    assert len(sink.requests) == 1


def test_the_set_authority_is_the_only_trusted_one(authority, served, tmp_path, monkeypatch):
    other = Authority(tmp_path, "other")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.file))
    with sink_that(answers("200 OK"), authority.server(served)) as sink:
        with requests.Session() as session:
            post(session, sink.url)
        with requests.Session() as session, pytest.raises(TransientDeliveryError, match=r"^TLS"):
            post(session, sink.url, tls=Tls(ca_file=str(other.file)))


def test_a_client_certificate_is_presented(session, authority, served):
    client = authority.issue("client")
    tls = authority.server(served, asks_for_certificates=True)
    environment = {
        "CRM_CA_FILE": str(authority.file),
        "CRM_CLIENT_CERT_FILE": str(client.certificate),
        "CRM_CLIENT_KEY_FILE": str(client.key),
    }
    with sink_that(answers("200 OK"), tls) as sink:
        settings = load({"CRM_ENDPOINT": sink.url, **environment})
        SinkClient(settings.sinks["crm"], session).post(BODY, KEY)
    assert len(sink.requests) == 1


def test_a_certificate_and_its_key_may_share_a_file(session, authority, served, tmp_path):
    client = authority.issue("shared")
    both = tmp_path / "both.pem"
    both.write_bytes(client.certificate.read_bytes() + client.key.read_bytes())
    tls = authority.server(served, asks_for_certificates=True)
    with sink_that(answers("200 OK"), tls) as sink:
        post(session, sink.url, tls=Tls(ca_file=str(authority.file), cert_file=str(both)))
    assert len(sink.requests) == 1


def test_a_missing_client_certificate_is_retried(session, authority, served):
    tls = authority.server(served, asks_for_certificates=True)
    with sink_that(answers("200 OK"), tls) as sink, pytest.raises(TransientDeliveryError):
        post(session, sink.url, tls=Tls(ca_file=str(authority.file)))
    assert sink.requests == []


# ── Signatures, verified as by a receiver ────────────────────────────────────────────────────

OLD, NEW = (f"whsec_{base64.b64encode(letter * 32).decode()}" for letter in (b"o", b"n"))


def signed_request(session, *secrets):
    with sink_that(answers("200 OK")) as sink:
        post(session, sink.url, signing_secrets=secrets)
    return sink.requests[0]


@pytest.mark.parametrize("receivers", [OLD, NEW])
def test_either_secret_of_a_rotation_verifies(session, receivers):
    request = signed_request(session, NEW, OLD)
    assert request.headers["webhook-id"] == request.headers["Idempotency-Key"] == KEY
    assert Webhook(receivers).verify(request.body, dict(request.headers)) == BODY


def test_another_secret_does_not_verify(session):
    request = signed_request(session, NEW)
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD).verify(request.body, dict(request.headers))


@pytest.mark.parametrize("header", ["webhook-id", "webhook-timestamp", None])
def test_a_modified_request_does_not_verify(session, header):
    request = signed_request(session, NEW)
    headers, body = dict(request.headers), request.body
    if header:
        headers[header] = str(int(headers[header]) - 1) if header.endswith("stamp") else "other"
    else:
        body += b" "
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(NEW).verify(body, headers)


def test_nothing_is_signed_without_a_secret(session):
    assert not [name for name in signed_request(session).headers if name.startswith("webhook-")]


def test_an_echoed_signing_secret_is_redacted(session):
    body = f"{OLD} {OLD[6:]} {OLD.strip('=')}".encode()
    with sink_that(answers("401 No", body=body)) as sink, pytest.raises(DeliveryError) as raised:
        post(session, sink.url, signing_secrets=(NEW, OLD))
    assert raised.value.response == "whsec_…= …= whsec_…"
