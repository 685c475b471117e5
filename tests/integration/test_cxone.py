"""Contexts from a stand-in of CXone, over a real Redis, by threads and processes."""

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
    """Wait little between tries."""
    monkeypatch.setattr(module, "_jitter", lambda _longest: 0.01)


def raised_by(contexts: Contexts, kind: type[DeliveryError] = TransientDeliveryError) -> Any:
    """The error of ``get``, which shows nothing that is secret or personal."""
    with pytest.raises(DeliveryError) as raised:
        contexts.get(ID)
    assert type(raised.value) is kind
    shown = "".join(traceback.format_exception(raised.value))
    for private in ("s3cr3t", "127.0.0.1", "4711", "Sample"):
        assert private not in shown
    return raised.value


def statuses(cxone: Cxone, part: str) -> list[int | None]:
    """What a part answered."""
    return [asked.answered for asked in cxone.asked(part)]


# ── Asking ────────────────────────────────────────────────────────────────────────────────────


def test_a_context_is_what_cxone_has_of_a_contact(contexts: Contexts, cxone: Cxone) -> None:
    assert contexts.get(ID) == contact(ID)
    assert cxone.asked("tokens") == [Asked("client_credentials", 200)]
    assert cxone.asked("contacts") == [Asked(ID, 200)]


def test_an_access_key_is_as_good(make: Make, cxone: Cxone) -> None:
    key = {"ACCESS_KEY_ID": "key==", "ACCESS_KEY_SECRET": "s3cr3t&k"}
    assert make(GRANT="password", **key).get(ID) == contact(ID)
    assert cxone.asked("tokens") == [Asked("password", 200)]


def test_endpoints_are_discovered_once_for_all(make: Make, cxone: Cxone) -> None:
    nowhere = {"TOKEN_URL": "", "API_URL": "", "DISCOVERY_URL": cxone.url, "TENANT_ID": TENANT}
    for number in range(3):
        assert make(**nowhere).get(f"{ID}-{number}") == contact(f"{ID}-{number}")
    assert [asked.what for asked in cxone.asked("discovery")] == [
        "/.well-known/openid-configuration",
        "/.well-known/cxone-configuration",
    ]


def test_an_unknown_tenant_is_an_error_to_act_on(make: Make, cxone: Cxone) -> None:
    error = raised_by(make(API_URL="", DISCOVERY_URL=cxone.url, TENANT_ID="another"), DeliveryError)
    assert str(error) == (
        "CXone: api_endpoint is not discovered, 404 (see CXONE_DISCOVERY_URL, CXONE_TENANT_ID)"
    )


def test_the_path_of_contacts_can_be_set(make: Make) -> None:
    path = "/incontactapi/services/v99.0/contacts/{interactionId}?fields=all"
    assert make(CONTACT_PATH=path).get(ID) == contact(ID)


@pytest.mark.parametrize("name", ["a/b", "a?b=c", "a b", "ä#", "../x", "%2e%2e", "a\\b"])
def test_an_id_stays_an_id(contexts: Contexts, cxone: Cxone, name: str) -> None:
    assert contexts.get(name) == contact(name)
    assert cxone.asked("contacts") == [Asked(name, 200)]


@pytest.mark.parametrize("name", [".", ".."])
def test_what_would_lead_elsewhere_is_not_asked_for(
    contexts: Contexts, cxone: Cxone, name: str
) -> None:
    with pytest.raises(TransientDeliveryError, match="not the id of a contact"):
        contexts.get(name)
    assert cxone.asked("tokens") == cxone.asked("contacts") == []


# ── Shared by all ─────────────────────────────────────────────────────────────────────────────


def test_a_context_serves_the_other_events_of_its_interaction(
    make: Make, cxone: Cxone, redis: RedisContainer
) -> None:
    for _ in range(3):
        assert make(CACHE_SECONDS="77").get(ID) == contact(ID)
    assert len(cxone.asked("contacts")) == 1
    assert 0 < redis.client.ttl(f"cxone.context.{ID}") <= 77


def test_a_context_need_not_be_kept(make: Make, cxone: Cxone, redis: RedisContainer) -> None:
    for _ in range(2):
        make(CACHE_SECONDS="0").get(ID)
    assert len(cxone.asked("contacts")) == 2
    assert not redis.client.keys("cxone.context.*")


def ask_for(environ: dict[str, str], url: str, names: list[str]) -> list[Any]:
    """Get contexts in as many threads, as a worker process does."""
    settings = load(environ).cxone
    assert settings
    with Redis.from_url(url, decode_responses=True) as client, make_session() as session:
        session.trust_env = False
        contexts = Contexts(settings, client, session, keep=60)
        with ThreadPoolExecutor(len(names)) as pool:
            return list(pool.map(contexts.get, names))


def ask_by_many(cxone: Cxone, redis: RedisContainer, round_: str) -> None:
    """Get twelve contexts at once, by three processes."""
    environ = cxone.settings()
    names = [[f"{round_}-{process}-{thread}" for thread in range(4)] for process in range(3)]
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=spawned) as pool:
        got = [pool.submit(ask_for, environ, redis.url, mine) for mine in names]
        for mine, future in zip(names, got, strict=True):
            assert future.result() == list(map(contact, mine))


def test_one_token_serves_many_processes_and_is_renewed_by_one_of_them(
    cxone: Cxone, redis: RedisContainer
) -> None:
    cxone.behave("tokens", "slow", seconds=0.3)
    ask_by_many(cxone, redis, "first")
    assert statuses(cxone, "tokens") == [200]
    cxone.expire()
    ask_by_many(cxone, redis, "second")
    assert statuses(cxone, "tokens") == [200, 200]
    assert 1 <= statuses(cxone, "contacts").count(401) <= 12


# ── Faults ────────────────────────────────────────────────────────────────────────────────────


def test_a_token_that_is_over_is_renewed_and_the_call_repeated_once(
    contexts: Contexts, cxone: Cxone
) -> None:
    contexts.get("another")
    cxone.expire()
    assert contexts.get(ID) == contact(ID)
    assert statuses(cxone, "contacts") == [200, 401, 200]
    assert len(cxone.asked("tokens")) == 2


def test_tokens_that_are_never_taken_are_an_error_to_act_on(
    contexts: Contexts, cxone: Cxone
) -> None:
    cxone.behave("contacts", "status", status=401)
    error = raised_by(contexts, DeliveryError)
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
def test_wrong_credentials_are_an_error_to_act_on(
    make: Make, cxone: Cxone, changes: dict[str, str], message: str
) -> None:
    error = str(raised_by(make(**changes), DeliveryError))
    assert error.startswith(f"{message} (see ")
    for name in changes:
        assert name == "GRANT" or f"CXONE_{name}" in error


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(contexts: Contexts, cxone: Cxone, status: int) -> None:
    cxone.behave("contacts", "status", status=status, times=2)
    assert contexts.get(ID) == contact(ID)
    assert statuses(cxone, "contacts") == [status, status, 200]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("part", ["tokens", "contacts"])
def test_tries_come_to_an_end(make: Make, cxone: Cxone, part: str) -> None:
    cxone.behave(part, "status", status=503)
    error = raised_by(make(MAX_TRIES="2"))
    assert "503 Service Unavailable" in str(error)
    # A token that is refused is refused for all, for two seconds.
    assert statuses(cxone, part) == [503] * (1 if part == "tokens" else 2)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("mode", ["hang", "close"])
def test_who_does_not_answer_is_asked_again(make: Make, cxone: Cxone, mode: Any) -> None:
    cxone.behave("contacts", mode, times=1)
    assert make(READ_TIMEOUT_SECONDS="1").get(ID) == contact(ID)
    assert statuses(cxone, "contacts") == [None, 200]


def test_all_tries_together_have_their_time(make: Make, cxone: Cxone) -> None:
    cxone.behave("contacts", "hang")
    contexts = make(MAX_TRIES="10", TIMEOUT_SECONDS="2", READ_TIMEOUT_SECONDS="300")
    begun = time.monotonic()
    assert str(raised_by(contexts)) == "CXone: no answer within 2 s"
    assert 1.9 < time.monotonic() - begun < 2 + 16


def test_patience_that_cxone_asks_for_is_had_by_all(
    make: Make, cxone: Cxone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_jitter", lambda _longest: 0.0)
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


def test_patience_beyond_its_time_is_not_waited_for(make: Make, cxone: Cxone) -> None:
    cxone.behave("contacts", "status", status=429, retry_after=120)
    for _ in range(3):
        error = raised_by(make())
        assert str(error) == "CXone: 429 Too Many Requests"
        assert not error.counts_as_failure
    assert statuses(cxone, "contacts") == [429]


def test_patience_has_a_bound(make: Make, cxone: Cxone, redis: RedisContainer) -> None:
    cxone.behave("contacts", "status", status=503, retry_after=86_400)
    raised_by(make())
    assert 0 < redis.client.ttl("cxone.busy") <= module.POLICY.retry_after_cap


@pytest.mark.usefixtures("quick")
def test_cxone_is_left_alone_while_it_does_not_answer(
    make: Make, cxone: Cxone, redis: RedisContainer
) -> None:
    cxone.behave("contacts", "status", status=503)
    contexts = make()
    for _ in range(4):
        error = raised_by(contexts)
    assert str(error) == "CXone is not asked: it did not answer the last times"
    assert len(cxone.asked("contacts")) == module.POLICY.breaker_failures
    cxone.behave("contacts")
    redis.client.hset("breaker.cxone", "open_until", 1)  # its time is over
    assert contexts.get(ID) == contact(ID)


@pytest.mark.usefixtures("quick")
def test_contacts_that_cxone_does_not_have_are_no_reason_to_leave_it_alone(
    contexts: Contexts, cxone: Cxone
) -> None:
    cxone.behave("contacts", "status", status=404)
    for _ in range(2 * module.POLICY.breaker_failures):
        assert str(raised_by(contexts)) == "CXone has none yet: 404 Not Found"
    cxone.behave("contacts")
    assert contexts.get(ID) == contact(ID)


def test_an_empty_answer_is_none_yet_and_asked_once(contexts: Contexts, cxone: Cxone) -> None:
    cxone.behave("contacts", "empty")
    assert str(raised_by(contexts)) == "CXone has none yet: an empty answer"
    assert statuses(cxone, "contacts") == [200]


def test_without_redis_there_is_no_context(make: Make) -> None:
    with Redis(port=free_port(), retry=Retry(NoBackoff(), 0)) as nobody:
        error = raised_by(make(nobody))
    assert str(error) == "CXone is not asked: Redis does not answer"


# ── For a delivery ────────────────────────────────────────────────────────────────────────────

JUST_NOW = to_rfc3339(now() + timedelta(days=1))
HOURS_AGO = to_rfc3339(now() - timedelta(hours=2))


def test_every_try_of_a_delivery_gets_the_same(make: Make, cxone: Cxone) -> None:
    contexts = make(CACHE_SECONDS="0")
    first = contexts.for_delivery("x.crm.1", ID, JUST_NOW)
    assert (first.context, first.note) == (contact(ID), None)
    cxone.behave("contacts", "status", status=404)
    assert contexts.for_delivery("x.crm.1", ID, JUST_NOW) == first
    assert len(cxone.asked("contacts")) == 1


def test_a_context_that_comes_late_is_for_the_next_delivery(make: Make, cxone: Cxone) -> None:
    cxone.behave("contacts", "status", status=404)
    early = make().for_delivery("x.crm.1", ID, JUST_NOW)
    assert (early.context, early.note) == (
        None,
        "without context: CXone has none yet: 404 Not Found",
    )
    cxone.behave("contacts")
    assert make().for_delivery("x.crm.1", ID, JUST_NOW) == early
    assert make().for_delivery("x.crm.2", ID, JUST_NOW).context == contact(ID)


def test_a_delivery_that_runs_twice_goes_with_the_first_that_it_found(
    make: Make, cxone: Cxone, redis: RedisContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = make()
    first = [{"contactId": "as the other found it"}, None]

    def while_another_is_faster(_name: str) -> dict[str, Any]:
        redis.client.set("context.x.crm.1", json.dumps(first))
        return contact(ID)

    monkeypatch.setattr(contexts, "get", while_another_is_faster)
    assert contexts.for_delivery("x.crm.1", ID, JUST_NOW) == tuple(first)


def test_what_a_delivery_goes_with_is_kept_for_its_tries_alone(
    contexts: Contexts, redis: RedisContainer
) -> None:
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


def test_without_redis_a_delivery_goes_without(make: Make) -> None:
    with Redis(port=free_port(), retry=Retry(NoBackoff(), 0)) as nobody:
        found = make(nobody).for_delivery("x.crm.1", ID, JUST_NOW)
    assert found == (None, "without context: CXone is not asked: Redis does not answer")


def test_what_an_operator_must_mend_is_logged(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    make(CLIENT_SECRET="wrong-s3cr3t").for_delivery("x.crm.1", ID, JUST_NOW)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith("no context for anybody: no access token: 401")
    assert "s3cr3t" not in record.getMessage()
