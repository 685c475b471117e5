"""What each process makes once, at first use: clients, breakers, metadata rules.

Made at first use, so that nothing is shared across a fork. Everything else gets these as arguments.
"""

from contextlib import suppress
from functools import cache

from kombu.exceptions import OperationalError
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks.celery import app
from tasks.claims import Claims, dynamodb
from tasks.counters import COUNTERS
from tasks.delivery.circuit_breaker import Breaker
from tasks.delivery.client import SinkClient
from tasks.delivery.context import Contexts
from tasks.delivery.http import make_session
from tasks.delivery.oauth import Tokens
from tasks.events import MetadataRules
from tasks.routing import DRAIN
from tasks.settings import settings


@cache
def redis() -> Redis:
    """The client for what processes share in Redis beside messages; its waits are bounded."""
    return Redis.from_url(
        settings().redis_url,
        decode_responses=True,
        socket_connect_timeout=2,
        socket_timeout=5,
        retry=Retry(NoBackoff(), 1),  # once, for a connection that Redis closed meanwhile
        **settings().redis_tls,
    )


COUNTERS.connect(redis)


@cache
def claims() -> Claims:
    """The table of claims."""
    config = settings()
    return Claims(
        dynamodb.connect(config),
        config.processing_table,
        lease=config.claim_lease,
        retention_days=config.retention_days,
    )


@cache
def rules() -> MetadataRules:
    """The metadata rules of the current environment, compiled."""
    return MetadataRules.from_file(settings().metadata_registry, settings().current_environment)


@cache
def client_of(sink: str) -> SinkClient:
    """The client of a sink; its connections are used again."""
    to, session = settings().sinks[sink], make_session()
    tokens = Tokens(redis(), session, to.grant) if to.grant else None
    return SinkClient(to, session, tokens)


@cache
def breaker_of(sink: str) -> Breaker:
    """The circuit breaker of a sink; when it closes, what was parked is drained."""
    to = settings().sinks[sink]
    return Breaker(
        redis(), sink, to.policy, probe_seconds=to.time_limit, on_closed=lambda: _start_drain(sink)
    )


def _start_drain(sink: str) -> None:
    """Start a drain now; beat starts one in any case, so nothing is lost if this fails."""
    with suppress(OperationalError):
        app.send_task(DRAIN, (sink,), retry=False)


@cache
def contexts() -> Contexts | None:
    """Where interactions' contexts come from; None where CXone is not set up."""
    cxone = settings().cxone
    if cxone is None:
        return None
    return Contexts(cxone, redis(), make_session(), keep=settings().claim_lease)
