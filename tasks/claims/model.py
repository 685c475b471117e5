"""What a claim is: the item of one event, and what its store answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from tasks.claims.outcomes import (
    Delivery,
    Status,
    deliveries_from_plain,
    deliveries_to_plain,
    undelivered,
    waiting,
)
from tasks.clock import elapsed_ms

#: Characters of an event's or an interaction's id, at most.
MAX_ID_LENGTH = 256

#: An audit record, as JSON has it (``tasks.claims.audit``).
AuditRecord = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSnapshot:
    """What ``settle`` needs of a claim; carried in its message, so that it need not read.

    ``revision`` and ``lineage_hash`` are those of the newest audit record.
    """

    id: str
    status: Status
    version: int
    interaction_id: str | None
    event_type: str | None
    received_at: str
    deliveries: Mapping[str, Delivery]
    generation: int = 0
    notes: Sequence[str] = ()
    redrives: int = 0
    targets: Sequence[str] | None = None
    actor: str | None = None
    revision: int = 0
    lineage_hash: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that messages carry."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "deliveries": deliveries_to_plain(self.deliveries)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ClaimSnapshot":
        """Read what ``to_json`` wrote."""
        deliveries = deliveries_from_plain(data["deliveries"])
        return cls(**{**data, "status": Status(data["status"]), "deliveries": deliveries})


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The item of one event. Times are RFC 3339; some are seconds since the epoch."""

    id: str
    status: Status
    received_at: str
    event_time: str | None
    interaction_id: str | None
    event_type: str | None
    payload: bytes  # canonical JSON of the envelope; empty where it was too large to keep
    payload_sha256: str
    deliveries: Mapping[str, Delivery]
    version: int = 1
    generation: int = 1  # how many times it has been dispatched
    dispatches: int = 1  # dispatches since it last settled
    redrives: int = 0  # how many delayed retries it has had
    dispatched_at: int = 0  # seconds since the epoch: when it was last dispatched
    holder: str | None = None  # id of the task that holds the lease
    targets: Sequence[str] | None = None  # the sinks that an operator asked for, until it settles
    actor: str | None = None  # the operator who asked
    due_at: int | None = None  # seconds since the epoch
    processed_at: str | None = None
    notes: Sequence[str] = ()
    audit: Sequence[AuditRecord] = field(default_factory=list)

    @cached_property
    def snapshot(self) -> ClaimSnapshot:
        """What ``settle`` needs of it."""
        newest: AuditRecord = self.audit[-1] if self.audit else {"revision": 0, "lineageHash": None}
        shared = {name: getattr(self, name) for name in _SHARED_WITH_SNAPSHOT}
        return ClaimSnapshot(
            **shared, revision=newest["revision"], lineage_hash=newest["lineageHash"]
        )

    @property
    def is_invalid(self) -> bool:
        """Whether its event failed validation: it is final, and has no deliveries."""
        return self.summary().is_invalid

    @property
    def undelivered(self) -> list[str]:
        """The sinks that do not have it yet."""
        return undelivered(self.deliveries)

    @property
    def to_deliver(self) -> Sequence[str]:
        """The sinks that its present dispatch is for."""
        return waiting(self.deliveries) if self.targets is None else self.targets

    @property
    def lag_ms(self) -> int | None:
        """Milliseconds from its receipt to its newest audit record; None before the first."""
        return elapsed_ms(self.received_at, self.processed_at) if self.processed_at else None

    def summary(self) -> "Summary":
        """Return what a list shows of it."""
        return Summary(*(getattr(self, name) for name in Summary._fields))


#: The fields that a snapshot takes from its claim as they are.
_SHARED_WITH_SNAPSHOT = [name for name in ClaimSnapshot.__slots__ if name in Claim.__annotations__]


@dataclass(frozen=True, slots=True)
class Acquired:
    """The claim is the caller's: a new one, its own of before, or one whose lease ended."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The event is claimed already, with this payload."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Conflict:
    """The event's id is claimed already, but with another payload."""

    claim: Claim


class NextRetry(NamedTuple):
    """When a settled event is due again, in seconds since the epoch.

    ``parked_for`` is its partition of the index ``parked``, if it only waits for sinks to recover.
    """

    at: int
    parked_for: str | None = None


class Due(NamedTuple):
    """An entry of the index ``due`` or ``parked``; times are in seconds since the epoch."""

    at: int
    key: str
    version: int
    status: Status
    dispatched_at: int
    parked: bool = False  # found in ``parked``: its sink has recovered, so it need not be overdue


class Summary(NamedTuple):
    """An entry of the index ``received``."""

    id: str
    status: Status
    received_at: str
    event_type: str | None
    interaction_id: str | None
    deliveries: Mapping[str, Delivery]

    @property
    def is_invalid(self) -> bool:
        """Whether the event failed validation: it is final, and has no deliveries."""
        return self.status is Status.FAILED and not self.deliveries


class Cursor(NamedTuple):
    """A position in the index ``received``: that of a summary."""

    received_at: str
    id: str
