"""Contexts from the stub of CXone, with a real Redis, in threads and processes."""

import json
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import requests
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from embedded.cxone import TENANT, Asked, Cxone, contact
from tasks.clock import now, to_rfc3339
from tasks.delivery import backoff
from tasks.delivery import context as module
from tasks.delivery.context import Contexts
from tasks.delivery.http import make_session
from tasks.errors import ContextMissingError, DeliveryError, TransientDeliveryError
from tasks.settings import load
from tests.support.nodes import RedisContainer, free_port

ID = "interaction-4711"

Make = Callable[..., Contexts]


@pytest.fixture
def cxone() -> Iterator[Cxone]:
    """CXone."""
    with Cxone(client="cx:s3cr3t+/=ä", key="key==:s3cr3t&k") as cxone:
        yield cxone


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[requests.Session]:
    """Connections."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with make_session() as session:
        yield session


@pytest.fixture
def make(cxone: Cxone, redis: RedisContainer, session: requests.Session) -> Make:
    """Make the contexts of a process, with its settings."""

    def make(redis: Redis = redis.client, **changes: str) -> Contexts:
        environ = {**cxone.settings(), **{f"CXONE_{name}": v for name, v in changes.items()}}
        settings = load({name: value for name, value in environ.items() if value}).cxone
        assert settings
        return Contexts(settings, redis, session, keep=60)

    return make


@pytest.fixture
def contexts(make: Make) -> Contexts:
    """The contexts of a process."""
    return make()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait little between attempts."""
    monkeypatch.setattr(backoff.random, "uniform", lambda _least, _most: 0.01)


def error_of(contexts: Contexts, kind: type[DeliveryError] = TransientDeliveryError) -> Any:
    """The error of ``get``; its traceback contains nothing secret or personal."""
    with pytest.raises(DeliveryError) as raised:
        contexts.get(ID)
    assert type(raised.value) is kind
    shown = "".join(traceback.format_exception(raised.value))
    for private in ("s3cr3t", "127.0.0.1", "4711", "Sample"):
        assert private not in shown
    return raised.value


def statuses(cxone: Cxone, part: str) -> list[int | None]:
    """The statuses that a part has answered."""
    return [asked.answered for asked in cxone.asked(part)]


# ── Requests ──────────────────────────────────────────────────────────────────────────────────


def test_a_context_is_what_cxone_has_of_a_contact(contexts: Contexts, cxone: Cxone) -> None:
    assert contexts.get(ID) == contact(ID)
    assert cxone.asked("tokens") == [Asked("client_credentials", 200)]
    assert cxone.asked("contacts") == [Asked(ID, 200)]


def test_an_access_key_can_be_used(make: Make, cxone: Cxone) -> None:
    key = {"ACCESS_KEY_ID": "key==", "ACCESS_KEY_SECRET": "s3cr3t&k"}
    assert make(GRANT="password", **key).get(ID) == contact(ID)
    assert cxone.asked("tokens") == [Asked("password", 200)]


def test_endpoints_are_discovered_once_for_all_workers(make: Make, cxone: Cxone) -> None:
    discovery = {"TOKEN_URL": "", "API_URL": "", "DISCOVERY_URL": cxone.url, "TENANT_ID": TENANT}
    for number in range(3):
        assert make(**discovery).get(f"{ID}-{number}") == contact(f"{ID}-{number}")
    assert [asked.what for asked in cxone.asked("discovery")] == [
        "/.well-known/openid-configuration",
        "/.well-known/cxone-configuration",
    ]


def test_an_unknown_tenant_names_the_settings(make: Make, cxone: Cxone) -> None:
    error = error_of(make(API_URL="", DISCOVERY_URL=cxone.url, TENANT_ID="another"), DeliveryError)
    assert str(error) == (
        "CXone: api_endpoint is not discovered, 404 (see CXONE_DISCOVERY_URL, CXONE_TENANT_ID)"
    )


def test_the_path_of_contacts_can_be_set(make: Make) -> None:
    path = "/incontactapi/services/v99.0/contacts/{interactionId}?fields=all"
    assert make(CONTACT_PATH=path).get(ID) == contact(ID)


@pytest.mark.parametrize("name", ["a/b", "a?b=c", "a b", "ä#", "../x", "%2e%2e", "a\\b"])
def test_an_id_is_escaped_in_the_url(contexts: Contexts, cxone: Cxone, name: str) -> None:
    assert contexts.get(name) == contact(name)
    assert cxone.asked("contacts") == [Asked(name, 200)]


@pytest.mark.parametrize("name", [".", ".."])
def test_an_id_that_changes_the_path_is_not_requested(
    contexts: Contexts, cxone: Cxone, name: str
) -> None:
    with pytest.raises(TransientDeliveryError, match="not the id of a contact"):
        contexts.get(name)
    assert cxone.asked("tokens") == cxone.asked("contacts") == []


# ── Cache ─────────────────────────────────────────────────────────────────────────────────────


def test_a_context_is_cached_for_its_interaction(
    make: Make, cxone: Cxone, redis: RedisContainer
) -> None:
    for _ in range(3):
        assert make(CACHE_SECONDS="77").get(ID) == contact(ID)
    assert len(cxone.asked("contacts")) == 1
    assert 0 < redis.client.ttl(f"cxone.context.{ID}") <= 77


def test_the_cache_can_be_switched_off(make: Make, cxone: Cxone, redis: RedisContainer) -> None:
    for _ in range(2):
        make(CACHE_SECONDS="0").get(ID)
    assert len(cxone.asked("contacts")) == 2
    assert not redis.client.keys("cxone.context.*")


def get_in_threads(environ: dict[str, str], url: str, names: list[str]) -> list[Any]:
    """Get each context in a thread, as a worker process does."""
    settings = load(environ).cxone
    assert settings
    with Redis.from_url(url, decode_responses=True) as client, make_session() as session:
        session.trust_env = False
        contexts = Contexts(settings, client, session, keep=60)
        with ThreadPoolExecutor(len(names)) as pool:
            return list(pool.map(contexts.get, names))


def get_in_processes(cxone: Cxone, redis: RedisContainer, round_: str) -> None:
    """Get twelve contexts at once, in three processes."""
    environ = cxone.settings()
    names = [[f"{round_}-{process}-{thread}" for thread in range(4)] for process in range(3)]
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=spawned) as pool:
        got = [pool.submit(get_in_threads, environ, redis.url, batch) for batch in names]
        for batch, future in zip(names, got, strict=True):
            assert future.result() == list(map(contact, batch))


def test_one_token_serves_many_processes(cxone: Cxone, redis: RedisContainer) -> None:
    cxone.behave("tokens", "slow", seconds=0.3)
    get_in_processes(cxone, redis, "first")
    assert statuses(cxone, "tokens") == [200]
    cxone.expire()
    get_in_processes(cxone, redis, "second")
    assert statuses(cxone, "tokens") == [200, 200]
    assert 1 <= statuses(cxone, "contacts").count(401) <= 12


# ── Faults ────────────────────────────────────────────────────────────────────────────────────


def test_an_expired_token_is_renewed_and_the_call_repeated(
    contexts: Contexts, cxone: Cxone
) -> None:
    contexts.get("another")
    cxone.expire()
    assert contexts.get(ID) == contact(ID)
    assert statuses(cxone, "contacts") == [200, 401, 200]
    assert len(cxone.asked("tokens")) == 2


def test_tokens_that_are_refused_name_the_settings(contexts: Contexts, cxone: Cxone) -> None:
    cxone.behave("contacts", "status", status=401)
    error = error_of(contexts, DeliveryError)
    named = "CXONE_CLIENT_ID, CXONE_CLIENT_SECRET, CXONE_SCOPE"
    assert str(error) == f"CXone: 401 Unauthorized (see {named})"
    assert statuses(cxone, "contacts") == [401, 401]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CLIENT_SECRET": "wrong-s3cr3t"}, "no access token: 401 Unauthorized, invalid_client"),
        ({"SCOPE": "view:everything"}, "no access token: 400 Bad Request, invalid_scope"),
        ({"SCOPE": "view:agents"}, "CXone: 403 Forbidden"),
        (
            {"GRANT": "password", "ACCESS_KEY_ID": "k", "ACCESS_KEY_SECRET": "s3cr3t"},
            "no access token: 400 Bad Request, invalid_grant",
        ),
    ],
)
def test_wrong_credentials_name_the_settings(
    make: Make, cxone: Cxone, changes: dict[str, str], message: str
) -> None:
    error = str(error_of(make(**changes), DeliveryError))
    assert error.startswith(f"{message} (see ")
    for name in changes:
        assert name == "GRANT" or f"CXONE_{name}" in error


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_transient_error_is_retried(contexts: Contexts, cxone: Cxone, status: int) -> None:
    cxone.behave("contacts", "status", status=status, times=2)
    assert contexts.get(ID) == contact(ID)
    assert statuses(cxone, "contacts") == [status, status, 200]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("part", ["tokens", "contacts"])
def test_attempts_are_limited(make: Make, cxone: Cxone, part: str) -> None:
    cxone.behave(part, "status", status=503)
    error = error_of(make(MAX_TRIES="2"))
    assert "503 Service Unavailable" in str(error)
    # A refused token request is cached for two seconds.
    assert statuses(cxone, part) == [503] * (1 if part == "tokens" else 2)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("mode", ["hang", "close"])
def test_a_missing_response_is_retried(make: Make, cxone: Cxone, mode: Any) -> None:
    cxone.behave("contacts", mode, times=1)
    assert make(READ_TIMEOUT_SECONDS="1").get(ID) == contact(ID)
    assert statuses(cxone, "contacts") == [None, 200]


def test_all_attempts_together_have_a_deadline(make: Make, cxone: Cxone) -> None:
    cxone.behave("contacts", "hang")
    contexts = make(MAX_TRIES="10", TIMEOUT_SECONDS="2", READ_TIMEOUT_SECONDS="300")
    begun = time.monotonic()
    assert str(error_of(contexts)) == "CXone: no answer within 2 s"
    assert 1.9 < time.monotonic() - begun < 2 + 16


def test_all_workers_obey_retry_after(
    make: Make, cxone: Cxone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff.random, "uniform", lambda _least, _most: 0.0)
    cxone.behave("contacts", "status", status=429, retry_after=1, times=1)
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(make(TIMEOUT_SECONDS="40").get, "first")
        while not cxone.asked("contacts"):
            pass
        assert make(TIMEOUT_SECONDS="40").get(ID) == contact(ID)
        assert first.result() == contact("first")
    assert time.monotonic() - begun >= 1
    assert statuses(cxone, "contacts") == [429, 200, 200]


def test_a_retry_after_beyond_the_deadline_is_an_error(make: Make, cxone: Cxone) -> None:
    cxone.behave("contacts", "status", status=429, retry_after=120)
    for _ in range(3):
        error = error_of(make())
        assert str(error) == "CXone: 429 Too Many Requests"
        assert not error.counts_as_failure
    assert statuses(cxone, "contacts") == [429]


def test_retry_after_has_a_cap(make: Make, cxone: Cxone, redis: RedisContainer) -> None:
    cxone.behave("contacts", "status", status=503, retry_after=86_400)
    error_of(make())
    assert 0 < redis.client.ttl("cxone.busy") <= module.REQUEST_POLICY.retry_after_cap


@pytest.mark.usefixtures("quick")
def test_an_open_breaker_blocks_requests_to_cxone(
    make: Make, cxone: Cxone, redis: RedisContainer
) -> None:
    cxone.behave("contacts", "status", status=503)
    contexts = make()
    for _ in range(4):
        error = error_of(contexts)
    assert str(error) == "CXone is not asked: it did not answer the last times"
    assert len(cxone.asked("contacts")) == module.REQUEST_POLICY.breaker_failures
    cxone.behave("contacts")
    redis.client.hset("breaker.cxone", "open_until", 1)  # a probe is due
    assert contexts.get(ID) == contact(ID)


@pytest.mark.usefixtures("quick")
def test_missing_contacts_do_not_open_the_breaker(contexts: Contexts, cxone: Cxone) -> None:
    cxone.behave("contacts", "status", status=404)
    for _ in range(2 * module.REQUEST_POLICY.breaker_failures):
        assert str(error_of(contexts)) == "CXone has none yet: 404 Not Found"
    cxone.behave("contacts")
    assert contexts.get(ID) == contact(ID)


def test_an_empty_response_is_not_retried(contexts: Contexts, cxone: Cxone) -> None:
    cxone.behave("contacts", "empty")
    assert str(error_of(contexts)) == "CXone has none yet: an empty answer"
    assert statuses(cxone, "contacts") == [200]


def test_without_redis_there_is_no_context(make: Make) -> None:
    with Redis(port=free_port(), retry=Retry(NoBackoff(), 0)) as unreachable:
        error = error_of(make(unreachable))
    assert str(error) == "CXone is not asked: Redis does not answer"


# ── For a delivery ────────────────────────────────────────────────────────────────────────────

JUST_NOW = to_rfc3339(now() + timedelta(days=1))
HOURS_AGO = to_rfc3339(now() - timedelta(hours=2))


def test_every_attempt_of_a_delivery_gets_the_same_context(make: Make, cxone: Cxone) -> None:
    contexts = make(CACHE_SECONDS="0")
    first = contexts.for_delivery("x.crm.1", ID, JUST_NOW)
    assert (first.context, first.note) == (contact(ID), None)
    cxone.behave("contacts", "status", status=404)
    assert contexts.for_delivery("x.crm.1", ID, JUST_NOW) == first
    assert len(cxone.asked("contacts")) == 1


def test_a_late_context_is_for_the_next_delivery(make: Make, cxone: Cxone) -> None:
    cxone.behave("contacts", "status", status=404)
    early = make().for_delivery("x.crm.1", ID, JUST_NOW)
    assert (early.context, early.note) == (
        None,
        "without context: CXone has none yet: 404 Not Found",
    )
    cxone.behave("contacts")
    assert make().for_delivery("x.crm.1", ID, JUST_NOW) == early
    assert make().for_delivery("x.crm.2", ID, JUST_NOW).context == contact(ID)


def test_a_delivery_that_runs_twice_uses_one_context(
    make: Make, cxone: Cxone, redis: RedisContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = make()
    first = [{"contactId": "as the other found it"}, None]

    def get_after_another(_name: str) -> dict[str, Any]:
        redis.client.set("context.x.crm.1", json.dumps(first))
        return contact(ID)

    monkeypatch.setattr(contexts, "get", get_after_another)
    assert contexts.for_delivery("x.crm.1", ID, JUST_NOW) == tuple(first)


def test_the_context_of_a_delivery_expires(contexts: Contexts, redis: RedisContainer) -> None:
    contexts.for_delivery("x.crm.1", ID, JUST_NOW)
    assert 0 < redis.client.ttl("context.x.crm.1") <= 60


def test_a_delivery_can_wait_for_its_context(make: Make, cxone: Cxone) -> None:
    contexts = make(WAIT_SECONDS="3600")
    cxone.behave("contacts", "status", status=404, times=2)
    with pytest.raises(ContextMissingError) as raised:
        contexts.for_delivery("x.crm.1", ID, JUST_NOW)
    assert str(raised.value) == "waits for its context: CXone has none yet: 404 Not Found"
    late = contexts.for_delivery("y.crm.1", ID, HOURS_AGO)
    assert late.note == "without context: CXone has none yet: 404 Not Found"
    assert contexts.for_delivery("x.crm.2", ID, JUST_NOW).context == contact(ID)


def test_without_redis_a_delivery_has_no_context(make: Make) -> None:
    with Redis(port=free_port(), retry=Retry(NoBackoff(), 0)) as unreachable:
        found = make(unreachable).for_delivery("x.crm.1", ID, JUST_NOW)
    assert found == (None, "without context: CXone is not asked: Redis does not answer")


def test_wrong_credentials_are_logged(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    make(CLIENT_SECRET="wrong-s3cr3t").for_delivery("x.crm.1", ID, JUST_NOW)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith("no context for any event: no access token: 401")
    assert "s3cr3t" not in record.getMessage()
