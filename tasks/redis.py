"""What processes share in Redis beside messages: breakers, limits, access tokens, counters."""

from functools import cache

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks.settings import settings


@cache
def client() -> Redis:
    """The client of this process, whose waits are bounded."""
    return Redis.from_url(
        settings().redis_url,
        decode_responses=True,
        socket_connect_timeout=2,
        socket_timeout=5,
        retry=Retry(NoBackoff(), 1),  # once, for a connection that Redis closed meanwhile
    )
