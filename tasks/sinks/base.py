"""What a sink declares: its name, its body and the defaults of its settings."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.events import EventType, InteractionEvent

ALL_TYPES = frozenset(EventType)

#: ``body(event, received_at)``; ``received_at`` is RFC 3339 and the same on every attempt.
Body = Callable[[InteractionEvent, str], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """In-worker retries, timeouts, rate limit and circuit breaker. Times are seconds.

    After attempt *n* a delivery waits a random time up to ``backoff_base * 2**(n-1)``, at most
    ``backoff_cap`` (exponential backoff with full jitter), or the time in the sink's
    ``Retry-After``, at most ``retry_after_cap``.

    ``rate`` (calls per second) and ``concurrency`` (calls at once) hold over all workers of all
    machines; 0 is no limit. After ``breaker_failures`` failures in a row the circuit breaker opens,
    for ``breaker_seconds`` until a probe.
    """

    max_attempts: int = 5
    backoff_base: int = 1
    backoff_cap: int = 30
    retry_after_cap: int = 60
    connect_timeout: int = 3
    read_timeout: int = 10
    rate: float = 0
    concurrency: int = 0
    breaker_failures: int = 10
    breaker_seconds: int = 30

    @property
    def attempt_timeout(self) -> int:
        """The longest that one call may take, without a token or a context."""
        return self.connect_timeout + self.read_timeout

    @property
    def max_wait(self) -> int:
        """The longest wait between two attempts."""
        return max(self.backoff_cap, self.retry_after_cap)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """A downstream service: the events that it gets, and how it is called.

    Its endpoint is the setting ``<NAME>_ENDPOINT``; its task and queue are ``deliver.<name>``.
    ``event_types``, ``policy`` and ``headers`` (further headers of each call) are defaults of the
    settings in ``tasks/settings/sink_table.py``. With ``context``, its body gets the interaction's
    context under that name, where CXone is set up (``tasks/delivery/context.py``).
    """

    name: str
    body: Body
    event_types: frozenset[EventType] = ALL_TYPES
    policy: Policy = Policy()
    headers: Mapping[str, str] = field(default_factory=dict)
    context: bool = False

    def __post_init__(self) -> None:
        """Refuse a name that cannot be part of a variable and a queue."""
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"a sink's name is lower case letters, digits and _: {self.name!r}")

    @property
    def endpoint_variable(self) -> str:
        """The environment variable that holds its URL."""
        return f"{self.name.upper()}_ENDPOINT"

    @property
    def task_name(self) -> str:
        """The name of its task and of its queue."""
        return f"deliver.{self.name}"

    def idempotency_key(self, key: str) -> str:
        """Return the key that all attempts, redeliveries and redrives of an event have here."""
        return f"{key}:{self.name}"
