"""How hard all workers together may press a sink: its rate and its concurrency, in Redis.

The rate is kept by the generic cell rate algorithm, a token bucket that is one number: in any *T*
seconds there are at most ``rate * T + burst`` calls, with a burst of a tenth of a second's calls
(at least one). Who calls stands in a sorted set, each until it leaves, or until it must be dead.
Time is Redis's own, so no clock of a worker matters.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from redis import Redis, RedisError

from tasks.errors import AttemptTimeoutError, RateLimitExceededError, TransientDeliveryError
from tasks.settings import SinkSettings

#: Seconds' worth of calls that may come at once.
BURST = 0.1

#: Seconds that a call keeps its place beyond the longest that it may take; its time limit is less.
HOLD_GRACE = 20

#: The shortest wait that is told, in seconds: less would be asking all the time.
MIN_WAIT = 0.02

#: Seconds after which to ask whether one of those who call has left: between these.
POLL_INTERVAL = (0.05, 0.15)

# KEYS: the moment that the bucket is full again, who calls. ARGV: who asks, microseconds from call
# to call (0: no rate) and of a burst, calls at once (0: any number), microseconds to keep a place.
# Answers the microseconds to wait, or -1: until somebody leaves.
_ACQUIRE_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst = tonumber(ARGV[2]), tonumber(ARGV[3])
local places, keep = tonumber(ARGV[4]), tonumber(ARGV[5])
if places > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  if redis.call('ZCARD', KEYS[2]) >= places and not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
    return -1
  end
end
if interval > 0 then
  local full = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0))
  full = math.min(full, now + burst)  -- a clock was set back, or the rate was raised
  local wait = full + interval - burst - now
  if wait > 0 then
    return math.ceil(wait)
  end
  full = full + interval
  redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
end
if places > 0 then
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + keep), ARGV[1])
  redis.call('PEXPIRE', KEYS[2], math.ceil(keep / 1000))
end
return 0
"""


@contextmanager
def acquire(redis: Redis, sink: SinkSettings, holder: str) -> Iterator[None]:
    """Wait until the sink may be called, and let what is inside do it.

    Raises:
        NoTurnError: it may not, for a while; nothing inside was done.
        TransientDeliveryError: Redis does not answer; nothing inside was done.
    """
    deadline = time.monotonic() + sink.acquire_timeout
    try:
        while wait := try_acquire(redis, sink, holder):
            if time.monotonic() + wait > deadline:
                raise RateLimitExceededError(max(1.0, wait))
            time.sleep(wait)
    except AttemptTimeoutError:
        raise RateLimitExceededError(1.0) from None
    except RedisError:
        error = "its limits are not known: Redis does not answer"
        raise TransientDeliveryError(error, counts_as_failure=False) from None
    try:
        yield
    finally:
        with suppress(RedisError):  # its place is free in a while all the same
            release(redis, sink, holder)


def try_acquire(redis: Redis, sink: SinkSettings, holder: str) -> float:
    """Ask whether a call may be made now: 0 if so, else the seconds to wait before asking again.

    ``holder`` names the call, and must ``leave`` when it is over. A message that is handed out
    twice is one call.

    Raises:
        RedisError: Redis does not answer.
    """
    policy = sink.policy
    if not policy.rate and not policy.concurrency:
        return 0.0
    interval = 1e6 / policy.rate if policy.rate else 0.0
    answer = redis.register_script(_ACQUIRE_SCRIPT)(
        _keys(sink),
        [
            holder,
            interval,
            max(interval, 1e6 * BURST),
            policy.concurrency,
            1e6 * (sink.attempt_timeout + HOLD_GRACE),
        ],
    )
    if answer < 0:
        return random.uniform(*POLL_INTERVAL)  # noqa: S311 - so that not all ask at once
    return max(MIN_WAIT, answer / 1e6) if answer else 0.0


def release(redis: Redis, sink: SinkSettings, holder: str) -> None:
    """Say that a call is over.

    Raises:
        RedisError: Redis does not answer; the call's place is free in a while all the same.
    """
    if sink.policy.concurrency:
        redis.zrem(_keys(sink)[1], holder)


def _keys(sink: SinkSettings) -> list[str]:
    return [f"limits.{sink.sink.name}.{limit}" for limit in ("rate", "calls")]
