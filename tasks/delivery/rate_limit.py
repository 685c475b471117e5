"""Rate limit and concurrency limit of each sink, in Redis, over all workers together.

The rate limit is a generic cell rate algorithm, a token bucket that is one number: in any *T*
seconds there are at most ``rate * T + burst`` calls, with a burst of a tenth of a second's calls
(at least one). Calls in progress are in a sorted set, each until it is released or its worker must
have died. The clock is that of Redis; clocks of workers do not matter.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from redis import Redis, RedisError

from tasks.delivery.backoff import Deadline, jitter
from tasks.errors import AttemptTimeoutError, RateLimitExceededError, TransientDeliveryError
from tasks.settings import SinkSettings

#: Size of a burst, in seconds of the rate.
BURST = 0.1

#: Seconds that a call's slot is held beyond ``attempt_timeout``; the task's soft time limit is
#: less.
HOLD_GRACE = 20

#: The shortest wait, in seconds, so that a high rate does not turn into polling.
MIN_WAIT = 0.02

#: Seconds between two attempts to get a slot, at least and at most.
POLL_INTERVAL = (0.05, 0.15)

# KEYS: when the bucket is full again (microseconds); the calls in progress. ARGV: holder,
# microseconds between two calls (0: no rate limit), microseconds of a burst, slots (0: no
# concurrency limit), microseconds to hold a slot. Returns the microseconds to wait; 0: acquired;
# -1: no slot is free.
_ACQUIRE_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst = tonumber(ARGV[2]), tonumber(ARGV[3])
local slots, hold = tonumber(ARGV[4]), tonumber(ARGV[5])
if slots > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  if redis.call('ZCARD', KEYS[2]) >= slots and not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
    return -1
  end
end
if interval > 0 then
  local full = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0))
  full = math.min(full, now + burst)  -- the clock was set back, or the rate was raised
  local wait = full + interval - burst - now
  if wait > 0 then
    return math.ceil(wait)
  end
  full = full + interval
  redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
end
if slots > 0 then
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + hold), ARGV[1])
  redis.call('PEXPIRE', KEYS[2], math.ceil(hold / 1000))
end
return 0
"""


@contextmanager
def acquire(redis: Redis, sink: SinkSettings, holder: str) -> Iterator[None]:
    """Wait until the limits allow a call, and run the block that makes it.

    Raises:
        RateLimitExceededError: not within ``acquire_timeout``; the block did not run.
        TransientDeliveryError: Redis does not answer; the block did not run.
    """
    deadline = Deadline(sink.acquire_timeout)
    try:
        while wait := try_acquire(redis, sink, holder):
            if not deadline.sleep(wait):
                raise RateLimitExceededError(max(1.0, wait))
    except AttemptTimeoutError:
        raise RateLimitExceededError(1.0) from None
    except RedisError:
        error = "its limits are not known: Redis does not answer"
        raise TransientDeliveryError(error, counts_as_failure=False) from None
    try:
        yield
    finally:
        with suppress(RedisError):  # the slot expires
            release(redis, sink, holder)


def try_acquire(redis: Redis, sink: SinkSettings, holder: str) -> float:
    """Return 0 if a call may be made now, else the seconds after which to try again.

    ``holder`` identifies the call, for which ``release`` must be called when it is over. A message
    that is delivered twice has one holder and counts as one call.

    Raises:
        RedisError: Redis does not answer.
    """
    policy = sink.policy
    if not policy.rate and not policy.concurrency:
        return 0.0
    interval = 1e6 / policy.rate if policy.rate else 0.0
    burst, hold = max(interval, 1e6 * BURST), 1e6 * (sink.attempt_timeout + HOLD_GRACE)
    arguments: list[str | float] = [holder, interval, burst, policy.concurrency, hold]
    answer = redis.register_script(_ACQUIRE_SCRIPT)(_keys(sink), arguments)
    if answer < 0:
        return jitter(*POLL_INTERVAL)
    return max(MIN_WAIT, answer / 1e6) if answer else 0.0


def release(redis: Redis, sink: SinkSettings, holder: str) -> None:
    """Free the slot of a call that is over.

    Raises:
        RedisError: Redis does not answer; the slot expires.
    """
    if sink.policy.concurrency:
        redis.zrem(_keys(sink)[1], holder)


def _keys(sink: SinkSettings) -> list[str]:
    return [f"limits.{sink.sink.name}.{limit}" for limit in ("rate", "calls")]
