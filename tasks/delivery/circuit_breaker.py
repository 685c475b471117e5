"""A circuit breaker a sink, in Redis, one for all workers of all machines.

::

    closed ── so many failures in a row ──► open ── its time is over ──► half-open
      ▲                                      ▲                              │ one probe
      └────────── the probe succeeded ───────┼──────────────────────────────┤
                                             └────── the probe failed ──────┘

While it is open, deliveries are parked without a call. Half-open, one of them is let through; who
comes meanwhile is parked as well, and a probe whose worker dies gives its place up in time. A
Redis that does not answer stops no delivery.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from redis import Redis
from redis.exceptions import RedisError

from tasks.errors import AttemptTimeoutError, DeliveryError, ParkedError, TransientDeliveryError
from tasks.sinks import Policy

_log = logging.getLogger(__name__)


class State(StrEnum):
    """The state of a breaker."""

    CLOSED = "closed"  # deliveries go through
    OPEN = "open"  # deliveries are parked
    HALF_OPEN = "half-open"  # the next delivery is a probe


# The breaker is a hash: failures (in a row), open_until, closed_at (milliseconds), opened (how
# often), probe and probe_until. KEYS: the hash. ARGV: what to do, task id, failures that open it,
# milliseconds it stays open, milliseconds a probe may take, how often it had opened when the call
# was admitted: of a call that began before it opened, nothing is learnt when it ends.
_TRANSITION_SCRIPT = """
local key, op, id = KEYS[1], ARGV[1], ARGV[2]
local f = redis.call('HMGET', key, 'open_until', 'opened', 'failures', 'probe', 'probe_until')
local open_until, opened, failures, probe = tonumber(f[1] or 0), f[2] or '0', f[3], f[4]
if op == 'admit' and open_until == 0 then  -- it closed a moment ago
  return (failures and 'watched:' or 'admitted:') .. opened
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function open()
  redis.call('HSET', key, 'open_until', now + ARGV[4])
  redis.call('HDEL', key, 'failures', 'probe', 'probe_until')
end
if op == 'admit' then
  if now < open_until then return 'refused' end
  if probe and probe ~= id and now < tonumber(f[5]) then return 'refused' end
  redis.call('HSET', key, 'probe', id, 'probe_until', now + ARGV[5])
  return 'watched:' .. opened
end
if ARGV[6] ~= opened then return '' end
if open_until > 0 then
  if probe ~= id then return '' end
  if op == 'failed' then open() return 'reopened' end
  redis.call('HDEL', key, 'open_until', 'failures', 'probe', 'probe_until')
  redis.call('HSET', key, 'closed_at', now)
  return 'closed'
end
if op == 'succeeded' then redis.call('HDEL', key, 'failures') return '' end
if redis.call('HINCRBY', key, 'failures', 1) < tonumber(ARGV[3]) then return '' end
open()
redis.call('HINCRBY', key, 'opened', 1)
return 'opened'
"""

# The same hash, looked at: state, failures, opened, seconds to the next probe, seconds since it
# closed (-1: it was never open).
_STATUS_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local f = redis.call('HMGET', KEYS[1], 'open_until', 'failures', 'opened', 'closed_at')
local open_until = tonumber(f[1] or 0)
local state = open_until == 0 and 'closed' or now < open_until and 'open' or 'half-open'
return {state, tonumber(f[2] or 0), tonumber(f[3] or 0), math.max(0, open_until - now),
        f[4] and now - f[4] or -1}
"""


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """How a breaker stands. Times are seconds."""

    state: State
    failures: int  # in a row
    opened: int  # how often, ever
    probe_in: float
    closed_for: float | None  # since it last closed; None if it was never open


def status_of(redis: Redis, sink: str) -> BreakerStatus:
    """Return how the breaker of a sink stands.

    Raises:
        RedisError: Redis does not answer.
    """
    state, failures, opened, probe_in, closed_for = redis.register_script(_STATUS_SCRIPT)(
        [_key(sink)]
    )
    return BreakerStatus(
        State(state),
        failures,
        opened,
        probe_in / 1000,
        closed_for / 1000 if closed_for >= 0 else None,
    )


def _key(sink: str) -> str:
    return f"breaker.{sink}"


class Breaker:
    """The breaker of one sink."""

    def __init__(
        self,
        redis: Redis,
        sink: str,
        policy: Policy,
        *,
        probe_seconds: int,
        on_closed: Callable[[], object] = lambda: None,
    ) -> None:
        """Keep it in ``redis``, open it as ``policy`` says; call ``on_closed`` when it closes.

        A probe that says nothing for ``probe_seconds`` is given up.
        """
        self._on_closed = on_closed
        self._sink = sink
        self._redis = redis
        self._step = redis.register_script(_TRANSITION_SCRIPT)
        self._limits = (
            policy.breaker_failures,
            policy.breaker_seconds * 1000,
            probe_seconds * 1000,
        )

    def raise_if_open(self) -> None:
        """Park a delivery before what would be done for it in vain; it takes no probe's place.

        Raises:
            ParkedError: the breaker is open.
        """
        with suppress(RedisError):
            if self.status().state is State.OPEN:
                raise self._parked()

    def _parked(self) -> ParkedError:
        return ParkedError(f"parked: the breaker of {self._sink} is open")

    @contextmanager
    def guard(self, task_id: str) -> Iterator[None]:
        """Let the delivery inside call the sink, and note how that ended.

        Raises:
            ParkedError: it may not; nothing inside was done.
        """
        admission = self._admit(task_id)
        if admission == "refused":
            raise self._parked()
        try:
            yield
        except TransientDeliveryError as error:
            self._note("failed" if error.counts_as_failure else "succeeded", task_id, admission)
            raise
        except DeliveryError:
            self._note("succeeded", task_id, admission)  # it answered
            raise
        self._note("succeeded", task_id, admission)

    def _note(self, how: Literal["failed", "succeeded"], task_id: str, admission: str) -> None:
        verdict, _, opened = admission.partition(":")
        if not verdict or (how == "succeeded" and verdict == "admitted"):
            return  # Redis was away, or there is no failure to forget
        match self._do(how, task_id, opened):
            case "opened":
                _log.error("breaker of %s opened: it is not called", self._sink)
            case "reopened":
                _log.warning("breaker of %s stays open: the probe failed", self._sink)
            case "closed":
                _log.warning("breaker of %s closed: it is called again", self._sink)
                self._on_closed()

    def status(self) -> BreakerStatus:
        """Return how it stands.

        Raises:
            RedisError: Redis does not answer.
        """
        return status_of(self._redis, self._sink)

    def _admit(self, task_id: str) -> str:
        """Ask whether a call may be made; closed, as a breaker nearly always is, a look will do."""
        try:
            looked: Any = self._redis.hmget(_key(self._sink), ("open_until", "opened", "failures"))
        except (RedisError, AttemptTimeoutError) as error:  # it may not answer at all
            return self._fail_open(error)
        open_until, opened, failures = looked
        if open_until:
            return self._do("admit", task_id)
        return f"{'watched' if failures else 'admitted'}:{opened or 0}"

    def _do(
        self, op: Literal["admit", "failed", "succeeded"], task_id: str, opened: str = ""
    ) -> str:
        try:
            answer: Any = self._step([_key(self._sink)], [op, task_id, *self._limits, opened])
        except (RedisError, AttemptTimeoutError) as error:  # it may not answer at all
            return self._fail_open(error)
        return str(answer)

    def _fail_open(self, error: BaseException) -> str:
        _log.warning("breaker of %s not asked: %s", self._sink, type(error).__name__)
        return ""
