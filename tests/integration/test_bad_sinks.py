"""Sinks that misbehave on the wire: each delivery's outcome is right, and no other sink suffers."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from embedded.sinks import SampleSinks
from tests.support.certificates import Authority
from tests.support.envelopes import envelope
from tests.support.loopback import (
    LoopbackSink,
    Script,
    answers,
    sends_and_closes,
    sends_and_waits,
    sink_that,
)
from tests.support.nodes import running
from tests.support.system import System
from tests.support.waiting import eventually

#: Two short attempts, and a breaker that does not open.
SHORT = {
    "MAX_TRIES": "2",
    "BACKOFF_CAP_SECONDS": "1",
    "CONNECT_TIMEOUT_SECONDS": "1",
    "READ_TIMEOUT_SECONDS": "1",
    "BREAKER_FAILURES": "1000",
}

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(scope="module")
def crm() -> Iterator[LoopbackSink]:
    """The CRM, which runs ``script`` for each request."""
    with sink_that(answers("200 OK")) as sink:
        yield sink


@pytest.fixture(scope="module")
def bad_system(
    crm: LoopbackSink,
    aws_url: str,
    sample_sinks: SampleSinks,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[System]:
    """A worker for each sink that misbehaves: the CRM, and compliance, whose certificate
    is not trusted."""
    folder = tmp_path_factory.mktemp("bad")
    authority = Authority(folder)
    tls = authority.server(authority.issue("127.0.0.1"))
    bad = ("crm", "compliance")
    short = {f"{sink.upper()}_{name}": value for sink in bad for name, value in SHORT.items()}
    with sink_that(answers("200 OK"), tls) as compliance:
        endpoints = {"CRM_ENDPOINT": crm.url, "COMPLIANCE_ENDPOINT": compliance.url}
        system = System(folder, aws_url=aws_url, sinks=sample_sinks, **short, **endpoints)
        system.worker = system.make_worker("worker", "-Q", "events,settle,deliver.analytics")
        with (
            system,
            running(system.make_worker("crm", "-Q", "deliver.crm")),
            running(system.make_worker("compliance", "-Q", "deliver.compliance")),
        ):
            yield system


@pytest.fixture
def system(bad_system: System, sinks: SampleSinks) -> System:
    """The same."""
    return bad_system


def responds_late(connection: socket.socket, over: threading.Event) -> None:
    """Respond with 200 after the timeout."""
    over.wait(1.5)
    connection.sendall(OK + b"Content-Length: 0\r\n\r\n")


def never_ends(head: bytes) -> Script:
    """Send a body without end, as fast as it is read."""

    def script(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(head)
        while not over.is_set():
            connection.sendall(b"x" * 65_536)

    return script


@pytest.mark.parametrize(
    ("script", "outcome", "error", "attempts"),
    [
        pytest.param(sends_and_waits(), "failed", "no answer within 1 s", 2, id="hangs"),
        pytest.param(responds_late, "failed", "no answer within 1 s", 2, id="answers-late"),
        pytest.param(
            sends_and_closes(b"HTTP/1.1 20"), "failed", "connection failed", 2, id="breaks-off"
        ),
        pytest.param(
            sends_and_closes(OK, b"Content-Length: 9\r\n\r\nha"),
            "delivered",
            None,
            1,
            id="half-body",
        ),
        pytest.param(never_ends(OK + b"\r\n"), "delivered", None, 1, id="endless-200"),
        pytest.param(
            never_ends(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            "failed",
            "400 Bad Request",
            1,
            id="endless-400",
        ),
        pytest.param(
            answers("302 Found", "Location: http://127.0.0.1:1/"),
            "failed",
            "302 Found: redirects are not followed",
            1,
            id="redirects",
        ),
    ],
)
def test_a_misbehaving_sink_has_the_right_outcome(
    system: System,
    crm: LoopbackSink,
    *,
    script: Callable[..., None],
    outcome: str,
    error: str | None,
    attempts: int,
) -> None:
    crm.script = script
    crm.requests.clear()
    claim = system.settle(envelope())

    deliveries = claim.deliveries
    assert (deliveries["crm"].outcome, deliveries["crm"].attempts) == (outcome, attempts)
    assert [c.error for c in deliveries["crm"].calls] == [deliveries["crm"].error or ""] * attempts
    assert (deliveries["crm"].error or "").startswith(error or "")
    assert len(deliveries["crm"].response or "") <= 1024
    keys = {request.headers["Idempotency-Key"] for request in crm.requests}
    assert (len(crm.requests), keys) == (attempts, {f"{claim.id}:crm"})
    # Only transient failures are retried.
    assert deliveries["crm"].transient == (attempts == 2)

    assert deliveries["analytics"].outcome == "delivered"
    assert (deliveries["compliance"].outcome, deliveries["compliance"].error) == (
        "failed",
        "TLS handshake failed",
    )
    assert claim.id in system.due()


def test_a_hanging_sink_delays_no_other(system: System, crm: LoopbackSink) -> None:
    crm.script = sends_and_waits()
    crm.requests.clear()
    # The CRM's two processes need 40 seconds for these: two attempts of a second each.
    events = [envelope() for _ in range(40)]
    for event in events:
        system.accept(event)
    eventually(
        lambda: all(system.calls(event)["analytics"] for event in events), what="analytics has all"
    )
    keys = {request.headers["Idempotency-Key"] for request in crm.requests}
    assert len(keys) < len(events), "the CRM had all of them first"
