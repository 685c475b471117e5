"""How deliveries end, how outcomes merge, and the final status that follows. Pure.

Merging is monotone: delivered is absorbing, otherwise the later outcome wins. So outcomes may
arrive twice, late and in any order, and the claim ends up the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from tasks.clock import to_rfc3339

#: How many of the newest calls are kept of each delivery.
CALLS_KEPT = 20


class Status(StrEnum):
    """The status of a claim."""

    PROCESSING = "processing"  # some delivery has no outcome yet
    COMPLETED = "completed"  # every sink that wants it has it
    PARTIAL_FAILURE = "partial_failure"  # some have it, some do not
    FAILED = "failed"  # none has it, or the event is invalid


class Outcome(StrEnum):
    """The state of a delivery."""

    PENDING = "pending"  # no outcome yet
    DELIVERED = "delivered"  # the sink answered 2xx
    FAILED = "failed"  # the sink refused it, or its retries are used up
    PARKED = "parked"  # its sink is down: not tried, kept for later
    REVOKED = "revoked"  # an operator stopped it


class Call(NamedTuple):
    """One HTTP call to a sink, as it is kept on the claim."""

    at: int  # when it began, in milliseconds since the epoch
    ms: int  # duration
    status: int = 0  # of the answer; 0 where there was none
    error: str = ""  # why it failed; empty where it did not

    def __str__(self) -> str:
        return f"{self.error or self.status}, {self.ms} ms"

    @property
    def begun(self) -> str:
        """When it began, as RFC 3339."""
        return to_rfc3339(datetime.fromtimestamp(self.at / 1000, tz=UTC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """The state of one event's delivery to one sink.

    ``tries`` counts attempts by generation (the number of the dispatch), so that merging the same
    outcome twice does not count its attempts twice. ``at`` is RFC 3339. ``transient``: a retry may
    get through. ``response`` is an excerpt of the answer with which the sink refused; it may hold
    personal data, so it is kept on the claim alone. ``calls`` are the newest attempts, oldest
    first; those of a process that died before its report are missing.
    """

    outcome: Outcome = Outcome.PENDING
    tries: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    at: str | None = None
    transient: bool = False
    response: str | None = None
    calls: Sequence[Call] = ()

    @property
    def attempts(self) -> int:
        """Attempts so far, without those of processes that died before their report."""
        return sum(self.tries.values())

    def merge(self, other: "Delivery") -> "Delivery":
        """Return the merged state: commutative, associative, idempotent."""
        generations = self.tries.keys() | other.tries.keys()
        tries = {g: max(self.tries.get(g, 0), other.tries.get(g, 0)) for g in sorted(generations)}
        calls = newest({*self.calls, *other.calls})
        return replace(_winner(self, other), tries=tries, calls=calls)

    def to_plain(self) -> dict[str, Any]:
        """Return the form that items and messages have. ``asdict`` would copy every value."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> "Delivery":
        """Read what ``to_plain`` wrote, in this release or an earlier one."""
        return cls(
            outcome=Outcome(data["outcome"]),
            tries={generation: int(count) for generation, count in data["tries"].items()},
            error=data["error"],
            at=data["at"],
            transient=data["transient"],
            response=data["response"],
            calls=calls_from_plain(data.get("calls", ())),  # items of earlier releases have none
        )


def deliveries_to_plain(deliveries: Mapping[str, Delivery]) -> dict[str, Any]:
    """Return the form that items and messages have."""
    return {sink: delivery.to_plain() for sink, delivery in deliveries.items()}


def deliveries_from_plain(plain: Mapping[str, Mapping[str, Any]]) -> dict[str, Delivery]:
    """Read what ``deliveries_to_plain`` wrote."""
    return {sink: Delivery.from_plain(data) for sink, data in plain.items()}


def calls_from_plain(plain: Iterable[Sequence[Any]]) -> tuple[Call, ...]:
    """Read calls as messages and items have them: each a list of its fields."""
    return tuple(Call(int(at), int(ms), int(status), error) for at, ms, status, error in plain)


def newest(calls: Iterable[Call]) -> tuple[Call, ...]:
    """Return the calls that are kept of these, oldest first."""
    return tuple(sorted(calls)[-CALLS_KEPT:])


def _winner(one: Delivery, other: Delivery) -> Delivery:
    def rank(delivery: Delivery) -> tuple[str, str, str, bool, str]:
        reason = delivery.error or "", delivery.transient, delivery.response or ""
        return delivery.at or "", delivery.outcome, *reason

    delivered = [d for d in (one, other) if d.outcome is Outcome.DELIVERED]
    if delivered:
        return min(delivered, key=rank)  # it was delivered when it was first delivered
    return max(one, other, key=rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one delivery task reports at its end; carried in the message of ``settle``.

    ``note`` is what its audit record states beside the outcome.
    """

    sink: str
    outcome: Outcome
    attempts: int
    at: str
    error: str | None = None
    transient: bool = False
    response: str | None = None
    note: str | None = None
    calls: Sequence[Call] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that messages carry."""
        values = ((name, getattr(self, name)) for name in self.__slots__)
        return {name: value for name, value in values if value not in (None, ())}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Report":
        """Read what ``to_json`` wrote."""
        calls = calls_from_plain(data.get("calls", ()))
        return cls(**{**data, "outcome": Outcome(data["outcome"]), "calls": calls})

    def delivery(self, generation: int) -> Delivery:
        """Return the state of a delivery of which only this report is known."""
        return Delivery(
            outcome=self.outcome,
            tries={str(generation): self.attempts},
            error=self.error,
            at=self.at,
            transient=self.transient,
            response=self.response,
            calls=tuple(self.calls),
        )


def merge(
    deliveries: Mapping[str, Delivery], reports: Iterable[Report], generation: int
) -> dict[str, Delivery]:
    """Merge what a generation's delivery tasks reported into the deliveries of a claim."""
    merged = dict(deliveries)
    for report in reports:
        known = merged.get(report.sink, Delivery())
        merged[report.sink] = known.merge(report.delivery(generation))
    return merged


def status_of(deliveries: Iterable[Delivery]) -> Status:
    """Return the status that follows from the states of the deliveries.

    An event that no sink wants is completed: nothing is pending.
    """
    outcomes = [delivery.outcome for delivery in deliveries]
    if Outcome.PENDING in outcomes:
        return Status.PROCESSING
    delivered = outcomes.count(Outcome.DELIVERED)
    if delivered == len(outcomes):
        return Status.COMPLETED
    return Status.PARTIAL_FAILURE if delivered else Status.FAILED


def undelivered(deliveries: Mapping[str, Delivery]) -> list[str]:
    """Name the sinks that do not have the event yet."""
    return [sink for sink, d in deliveries.items() if d.outcome is not Outcome.DELIVERED]


def waiting(deliveries: Mapping[str, Delivery]) -> list[str]:
    """Name the sinks that will still get it without an operator: pending or transient."""
    return [
        sink
        for sink, d in deliveries.items()
        if d.outcome is Outcome.PENDING or (d.transient and d.outcome is not Outcome.DELIVERED)
    ]
