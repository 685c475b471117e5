"""What processes share in Redis beside messages: breakers, limits, access tokens, counters."""

import ssl
from functools import cache
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks.settings import settings


def tls() -> dict[str, Any]:
    """What a connection is told of TLS; nothing where ``REDIS_URL`` does not ask for it."""
    if not settings().redis_url.startswith("rediss:"):
        return {}
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": settings().redis_ca_file}


@cache
def client() -> Redis:
    """The client of this process, whose waits are bounded."""
    return Redis.from_url(
        settings().redis_url,
        decode_responses=True,
        socket_connect_timeout=2,
        socket_timeout=5,
        retry=Retry(NoBackoff(), 1),  # once, for a connection that Redis closed meanwhile
        **tls(),
    )
