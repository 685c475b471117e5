"""Access tokens, shared through a real Redis by threads and processes."""

import json
import multiprocessing
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import requests
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks.delivery import oauth
from tasks.delivery.client import SinkClient
from tasks.delivery.http import make_session
from tasks.delivery.oauth import Tokens
from tasks.errors import DeliveryError, TransientDeliveryError
from tasks.settings import OAuthGrant, load
from tests.support.nodes import RedisContainer, free_port
from tests.support.token_server import TokenServer

BODY = {"interactionId": "Jane-4711"}


@pytest.fixture
def server() -> Iterator[TokenServer]:
    """A token endpoint, and a sink that accepts its tokens."""
    with TokenServer() as server:
        yield server


@pytest.fixture
def grant(server: TokenServer) -> OAuthGrant:
    """The OAuth grant of the CRM."""
    return grant_of(server)


def grant_of(server: TokenServer, **changes: str) -> OAuthGrant:
    """Read a grant from the settings."""
    settings = load(
        {
            "CRM_OAUTH_TOKEN_URL": f"{server.url}/token",
            "CRM_OAUTH_CLIENT_ID": "cx:one",
            "CRM_OAUTH_CLIENT_SECRET": "s3cr3t+/=ä",
            "CRM_OAUTH_SCOPE": "events:write",
            **changes,
        }
    )
    grant = settings.sinks["crm"].grant
    assert grant
    return grant


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[requests.Session]:
    """Connections."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with make_session() as session:
        yield session


@pytest.fixture
def tokens(redis: RedisContainer, session: requests.Session, grant: OAuthGrant) -> Tokens:
    """The tokens of the CRM."""
    return Tokens(redis.client, session, grant)


def error_of(tokens: Tokens) -> DeliveryError:
    """The error of ``get``; its traceback contains no secret."""
    with pytest.raises(DeliveryError) as raised:
        tokens.get()
    shown = "".join(traceback.format_exception(raised.value))
    assert "s3cr3t" not in shown
    assert "127.0.0.1" not in shown
    return raised.value


# ── Requests ──────────────────────────────────────────────────────────────────────────────────


def test_a_token_is_requested_as_rfc_6749_defines(tokens: Tokens, server: TokenServer) -> None:
    assert tokens.get() == "token-1"
    form = {"grant_type": "client_credentials", "scope": "events:write"}
    assert server.token_requests == [("cx:one:s3cr3t+/=ä", form)]


def test_any_grant_can_be_used(
    redis: RedisContainer, session: requests.Session, server: TokenServer
) -> None:
    form = {"grant_type": "password", "username": "key", "password": "p&w", "client_id": "c"}
    grant = OAuthGrant(name="cxone", settings="CXONE_…", url=f"{server.url}/token", form=form)
    assert Tokens(redis.client, session, grant).get() == "token-1"
    assert server.token_requests == [(None, form)]


def get_from(url: str, grant: OAuthGrant, times: int) -> list[str]:
    """Get a token in as many threads, as a worker process does."""
    with Redis.from_url(url, decode_responses=True) as client, make_session() as session:
        session.trust_env = False
        tokens = Tokens(client, session, grant)
        with ThreadPoolExecutor(times) as pool:
            return list(pool.map(lambda _: tokens.get(), range(times)))


def test_many_processes_and_threads_make_one_request(
    redis: RedisContainer, server: TokenServer, grant: OAuthGrant
) -> None:
    server.seconds = 0.3
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=spawned) as pool:
        got = [pool.submit(get_from, redis.url, grant, 4) for _ in range(3)]
        assert [token for future in got for token in future.result()] == ["token-1"] * 12
    assert len(server.token_requests) == 1


def test_the_cache_is_read_again_under_the_lock(
    tokens: Tokens, server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tokens.get() == "token-1"
    reads = iter([None])  # the first read came before the token
    cached = tokens._cached
    monkeypatch.setattr(tokens, "_cached", lambda: next(reads, cached()))
    assert tokens.get() == "token-1"
    assert len(server.token_requests) == 1


@pytest.mark.parametrize(
    ("lifetime", "seconds"),
    [
        (3600, 3300),
        ("3600", 3300),
        (600, 300),
        (60, 30),
        (None, oauth.DEFAULT_TTL / 2),
        ("soon", oauth.DEFAULT_TTL / 2),
        (10**300, oauth.MAX_TTL - 300),
    ],
)
def test_a_token_is_used_until_its_margin(
    tokens: Tokens, server: TokenServer, redis: RedisContainer, lifetime: Any, seconds: float
) -> None:
    server.lifetime = lifetime
    assert [tokens.get(), tokens.get()] == ["token-1"] * 2
    (key,) = redis.client.keys("oauth.crm.*")
    assert seconds - 20 < redis.client.ttl(key) <= seconds
    redis.client.pexpire(key, 1)
    while redis.client.exists(key):
        pass
    assert tokens.get() == "token-2"


@pytest.mark.parametrize("lifetime", [0, -1, 0.001])
def test_a_token_without_lifetime_is_used_once(
    tokens: Tokens, server: TokenServer, lifetime: float
) -> None:
    server.lifetime = lifetime
    assert tokens.get() == "token-1"


def test_other_credentials_get_other_tokens(
    redis: RedisContainer, session: requests.Session, server: TokenServer, grant: OAuthGrant
) -> None:
    others = [
        replace(grant, client=("cx:one", "other")),
        replace(grant, form={**grant.form, "scope": "other"}),
        replace(grant, url=f"{server.url}/token?tenant=other"),
    ]
    for other in (grant, *others):
        assert other.key.startswith("oauth.crm.")
        assert "s3cr3t" not in other.key
    assert len({other.key for other in (grant, *others)}) == 4


def test_the_lock_of_a_dead_worker_expires(
    tokens: Tokens, redis: RedisContainer, grant: OAuthGrant
) -> None:
    redis.client.set(f"{grant.key}.lock", "another", px=300)
    assert tokens.get() == "token-1"


def test_a_long_wait_for_another_worker_is_a_transient_error(
    tokens: Tokens, redis: RedisContainer, grant: OAuthGrant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oauth, "TOKEN_WAIT", 0.1)
    redis.client.set(f"{grant.key}.lock", "another")
    assert type(error_of(tokens)) is TransientDeliveryError


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (401, {"error": "invalid_client"}, "401 Unauthorized, invalid_client"),
        (400, {"error": "invalid_scope"}, "400 Bad Request, invalid_scope"),
        (400, {"error": "you sent s3cr3t"}, "400 Bad Request"),
        (400, {"error": ["s3cr3t"]}, "400 Bad Request"),
        (403, b"s3cr3t", "403 Forbidden"),
        (404, [], "404 Not Found"),
        (307, {}, "307 Temporary Redirect: redirects are not followed"),
    ],
)
def test_a_refusal_is_final_and_names_the_settings(
    tokens: Tokens, server: TokenServer, status: int, content: Any, message: str
) -> None:
    server.response = (status, {}, content)
    error = error_of(tokens)
    assert type(error) is DeliveryError
    settings = ["TOKEN_URL", "CLIENT_ID", "CLIENT_SECRET", "SCOPE"]
    named = ", ".join(f"CRM_OAUTH_{name}" for name in settings)
    assert str(error) == f"no access token: {message} (see {named})"


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_error_is_transient(tokens: Tokens, server: TokenServer, status: int) -> None:
    server.response = (status, {}, {"error": "s3cr3t"})
    error = error_of(tokens)
    assert isinstance(error, TransientDeliveryError)
    assert error.counts_as_failure


def test_the_retry_after_of_a_busy_endpoint_is_read(tokens: Tokens, server: TokenServer) -> None:
    server.response = (429, {"Retry-After": "7"}, {})
    error = error_of(tokens)
    assert isinstance(error, TransientDeliveryError)
    assert (error.retry_after, error.counts_as_failure) == (7.0, False)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        [],
        {},
        {"access_token": None},
        {"access_token": ""},
        {"access_token": "a\nb"},
    ],
)
def test_a_response_without_a_token_is_a_transient_error(
    tokens: Tokens, server: TokenServer, content: Any
) -> None:
    server.response = (200, {}, content)
    error = error_of(tokens)
    assert isinstance(error, TransientDeliveryError)
    assert str(error) == "no access token: the answer has none"


def test_an_endpoint_without_response_is_a_transient_error(
    tokens: Tokens, server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oauth, "TOKEN_TIMEOUT", (2, 0.2))
    server.seconds = 1
    error = error_of(tokens)
    assert str(error) == "no access token: no answer within 0.2 s"
    assert isinstance(error, TransientDeliveryError)
    assert error.counts_as_failure


def test_a_refusal_is_shared_for_a_moment(
    tokens: Tokens, server: TokenServer, redis: RedisContainer, grant: OAuthGrant
) -> None:
    server.response = (401, {}, {"error": "invalid_client"})
    first, second = error_of(tokens), error_of(tokens)
    assert str(first) == str(second)
    assert len(server.token_requests) == 1
    assert 0 < redis.client.pttl(grant.key) <= oauth.REFUSED_FOR
    server.response = None
    redis.client.delete(grant.key)
    assert tokens.get() == "token-2"


def test_without_redis_there_is_no_token(session: requests.Session, grant: OAuthGrant) -> None:
    with Redis(port=free_port(), retry=Retry(NoBackoff(), 0)) as unreachable:
        error = error_of(Tokens(unreachable, session, grant))
    assert isinstance(error, TransientDeliveryError)
    assert not error.counts_as_failure


# ── Calls with a token ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def client(server: TokenServer, tokens: Tokens, session: requests.Session) -> SinkClient:
    """A client of the CRM, which requires a token."""
    crm = load({"CRM_ENDPOINT": f"{server.url}/events"}).sinks["crm"]
    return SinkClient(crm, session, tokens)


def test_a_token_is_used_for_many_calls(client: SinkClient, server: TokenServer) -> None:
    for _ in range(3):
        client.post(BODY, "key")
    assert server.call_tokens == ["Bearer token-1"] * 3
    assert len(server.token_requests) == 1


def test_a_refused_token_is_renewed_and_the_call_repeated(
    client: SinkClient, server: TokenServer, redis: RedisContainer
) -> None:
    client.post(BODY, "key")
    server.accepts = "token-2"
    client.post(BODY, "key")
    client.post(BODY, "key")
    assert server.call_tokens == [f"Bearer token-{n}" for n in (1, 1, 2, 2)]


def test_a_sink_that_accepts_no_token_causes_few_requests(
    client: SinkClient, server: TokenServer, redis: RedisContainer, grant: OAuthGrant
) -> None:
    server.accepts = None
    with pytest.raises(DeliveryError, match=r"^401 Unauthorized$") as raised:
        client.post(BODY, "key")
    assert server.call_tokens == ["Bearer token-1", "Bearer token-2"]
    assert raised.value.response == '{"error": "Bearer … is not accepted"}'
    redis.client.set(f"{grant.key}.dropped", "")  # the mark of the drop
    for _ in range(3):
        with pytest.raises(DeliveryError, match=r"^401 Unauthorized$"):
            client.post(BODY, "key")
    assert len(server.token_requests) == 2


def test_a_replaced_token_is_not_dropped(
    tokens: Tokens, redis: RedisContainer, grant: OAuthGrant
) -> None:
    assert tokens.get() == "token-1"
    tokens.drop("token-0")
    assert tokens.get() == "token-1"
    tokens.drop("token-1")
    assert tokens.get() == "token-2"
    tokens.drop("token-2")  # too soon
    assert tokens.get() == "token-2"
    assert 0 < redis.client.pttl(f"{grant.key}.dropped") <= oauth.DROPPED_FOR


def test_without_a_token_the_sink_is_not_called(client: SinkClient, server: TokenServer) -> None:
    server.response = (503, {}, {})
    with pytest.raises(TransientDeliveryError, match=r"^no access token: 503 "):
        client.post(BODY, "key")
    assert server.call_tokens == []


def test_redis_holds_the_token_alone(
    tokens: Tokens, redis: RedisContainer, grant: OAuthGrant
) -> None:
    token = tokens.get()
    assert redis.client.keys() == [grant.key]
    cached = redis.client.get(grant.key)
    assert json.loads(str(cached)) == {"token": token}
