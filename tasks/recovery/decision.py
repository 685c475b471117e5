"""What a claim needs whose lease was just acquired: decided here, done in ``takeover``. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tasks.claims import Claim


@dataclass(frozen=True, slots=True)
class Resume:
    """Deliver to these sinks, then settle; to none of them, only settle."""

    sinks: Sequence[str]


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Settle these sinks as failed, for this reason; what else is pending becomes due again."""

    sinks: Sequence[str]
    reason: str


def next_step(claim: Claim, sinks: Collection[str], max_dispatches: int) -> Resume | GiveUp:
    """Decide how a claim goes on.

    ``sinks`` are those that exist; ``max_dispatches`` is how often a claim may be dispatched
    without settling, its present dispatch included.
    """
    if claim.dispatches > max_dispatches:
        lost = claim.dispatches - 1
        return GiveUp(claim.to_deliver, f"{lost} dispatches did not live to settle it")
    if removed := [sink for sink in claim.to_deliver if sink not in sinks]:
        return GiveUp(removed, "there is no such sink any more")
    return Resume(claim.to_deliver)
