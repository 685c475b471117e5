"""What a sink is."""

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
    """How hard a delivery tries, and how hard it may press. Times are seconds.

    After try *n* it waits a random while up to ``backoff_base * 2**(n-1)``, at most
    ``backoff_cap`` (exponential backoff with full jitter), or as long as the sink's
    ``Retry-After`` says, at most ``retry_after_cap``.

    ``rate`` (calls a second) and ``concurrency`` (calls at once) hold over all workers of all
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
        """The longest that one call may take."""
        return self.connect_timeout + self.read_timeout

    @property
    def max_wait(self) -> int:
        """The longest wait between two tries."""
        return max(self.backoff_cap, self.retry_after_cap)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """A downstream service: what it wants and how it is called.

    Its endpoint is the setting ``<NAME>_ENDPOINT``; its task and queue are ``deliver.<name>``.
    ``event_types``, ``policy`` and ``headers`` (sent beside ours) can be set otherwise, as
    ``tasks/settings/sink_table.py`` says. With ``context``, its body gets the interaction's context
    under that name, where CXone is set up (``tasks/delivery/context.py``).
    """

    name: str
    body: Body
    event_types: frozenset[EventType] = ALL_TYPES
    policy: Policy = Policy()
    headers: Mapping[str, str] = field(default_factory=dict)
    context: bool = False

    def __post_init__(self) -> None:
        """Refuse a name that no variable and no queue can be named after."""
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"a sink's name is lower case letters, digits and _: {self.name!r}")

    @property
    def endpoint_variable(self) -> str:
        """The environment variable that holds its URL."""
        return f"{self.name.upper()}_ENDPOINT"

    @property
    def task_name(self) -> str:
        """Its task, and the queue of the same name."""
        return f"deliver.{self.name}"

    def idempotency_key(self, key: str) -> str:
        """The same for every attempt, redelivery and redrive of an event to this sink."""
        return f"{key}:{self.name}"
