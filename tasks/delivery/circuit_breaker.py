"""One circuit breaker per sink, in Redis, shared by all workers of all machines.

::

    closed ── breaker_failures in a row ──► open ── after breaker_seconds ──► half-open
      ▲                                      ▲                                 │ one probe
      └────────── the probe succeeded ───────┼─────────────────────────────────┤
                                             └──────── the probe failed ───────┘

While it is open, deliveries are parked without a call. While it is half-open, one delivery is let
through as the probe and all others are parked; a probe whose worker dies is replaced after
``probe_seconds``. If Redis does not answer, no delivery is blocked.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NamedTuple

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
# often), probe and probe_until. KEYS: the hash. ARGV: operation, task id, failures that open it,
# milliseconds that it stays open, milliseconds that a probe may take, and the value of "opened"
# when the call was admitted: the end of a call that began before it opened changes nothing.
# "admit" returns "refused" or the value of "opened"; the others, the transition if there was one.
_TRANSITION_SCRIPT = """
local key, op, id = KEYS[1], ARGV[1], ARGV[2]
local f = redis.call('HMGET', key, 'open_until', 'opened', 'probe', 'probe_until')
local open_until, opened, probe = tonumber(f[1] or 0), f[2] or '0', f[3]
if op == 'admit' and open_until == 0 then return opened end  -- it closed a moment ago
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function open()
  redis.call('HSET', key, 'open_until', now + ARGV[4])
  redis.call('HDEL', key, 'failures', 'probe', 'probe_until')
end
if op == 'admit' then
  if now < open_until then return 'refused' end
  if probe and probe ~= id and now < tonumber(f[4]) then return 'refused' end
  redis.call('HSET', key, 'probe', id, 'probe_until', now + ARGV[5])
  return opened
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

# Reads the same hash: state, failures, opened, milliseconds until the next probe, milliseconds
# since it closed (-1: it was never open).
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
    """The status of a breaker. Times are seconds."""

    state: State
    failures: int  # in a row
    opened: int  # how often it has opened
    probe_in: float
    closed_for: float | None  # since it last closed; None if it was never open


class _Admission(NamedTuple):
    """A call that may be made."""

    opened: str  # how often the breaker had opened by then
    note_success: bool  # whether a success changes anything


def status_of(redis: Redis, sink: str) -> BreakerStatus:
    """Return the status of a sink's breaker.

    Raises:
        RedisError: Redis does not answer.
    """
    script = redis.register_script(_STATUS_SCRIPT)
    state, failures, opened, probe_in_ms, closed_ms = script([_key(sink)])
    closed_for = closed_ms / 1000 if closed_ms >= 0 else None
    return BreakerStatus(State(state), failures, opened, probe_in_ms / 1000, closed_for)


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
        """Keep the state in ``redis``, which must decode responses.

        ``policy`` says when it opens and for how long. A probe without a result after
        ``probe_seconds`` is replaced. ``on_closed`` is called when it closes.
        """
        self._on_closed = on_closed
        self._sink = sink
        self._redis = redis
        self._script = redis.register_script(_TRANSITION_SCRIPT)
        open_ms, probe_ms = policy.breaker_seconds * 1000, probe_seconds * 1000
        self._limits = (policy.breaker_failures, open_ms, probe_ms)

    def raise_if_open(self) -> None:
        """Park a delivery before work that would be needless; this starts no probe.

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
        """Let the block call the sink, and record how that ended.

        An error with ``counts_as_failure`` is a failure. Any other ``DeliveryError`` is a success:
        as a rule the sink responded. Other exceptions are not recorded.

        Raises:
            ParkedError: the breaker blocks the call; the block did not run.
        """
        admission = self._admit(task_id)
        try:
            yield
        except DeliveryError as error:
            failed = isinstance(error, TransientDeliveryError) and error.counts_as_failure
            self._record("failed" if failed else "succeeded", task_id, admission)
            raise
        self._record("succeeded", task_id, admission)

    def status(self) -> BreakerStatus:
        """Return its status.

        Raises:
            RedisError: Redis does not answer.
        """
        return status_of(self._redis, self._sink)

    def _admit(self, task_id: str) -> _Admission | None:
        """Admit a call; None if Redis does not answer.

        A breaker is nearly always closed, and then this is one read.

        Raises:
            ParkedError: the breaker blocks the call.
        """
        fields = ("open_until", "opened", "failures")
        found = self._ask(lambda: self._redis.hmget(_key(self._sink), fields))
        if found is None:
            return None
        open_until, opened, failures = found
        if not open_until:
            return _Admission(opened or "0", note_success=failures is not None)
        answer = self._transition("admit", task_id)
        if answer == "refused":
            raise self._parked()
        return _Admission(answer, note_success=True) if answer else None

    def _record(
        self, result: Literal["failed", "succeeded"], task_id: str, admission: _Admission | None
    ) -> None:
        if not admission or (result == "succeeded" and not admission.note_success):
            return
        match self._transition(result, task_id, admission.opened):
            case "opened":
                _log.error("breaker of %s opened: it is not called", self._sink)
            case "reopened":
                _log.warning("breaker of %s stays open: the probe failed", self._sink)
            case "closed":
                _log.warning("breaker of %s closed: it is called again", self._sink)
                self._on_closed()

    def _transition(
        self, op: Literal["admit", "failed", "succeeded"], task_id: str, opened: str = ""
    ) -> Any:
        arguments: list[str | int] = [op, task_id, *self._limits, opened]
        return self._ask(lambda: self._script([_key(self._sink)], arguments))

    def _ask(self, command: Callable[[], Any]) -> Any:
        """Run a command of Redis; None if Redis, or the task's time limit, raised an error."""
        try:
            return command()
        except (RedisError, AttemptTimeoutError) as error:
            name = type(error).__name__
            _log.warning("breaker of %s unavailable, not applied: %s", self._sink, name)
            return None
