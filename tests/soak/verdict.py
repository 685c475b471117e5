"""Whether nothing is lost and nothing is stuck; and the numbers."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tasks.claims import Claim, Claims, Status
from tests.support.envelopes import SINKS, assert_chain_holds

from .ledger import Ledger

#: Seconds between two rounds over what is not settled yet.
PAUSE = 1.0

#: Claims read at a time.
READERS = 4

#: After any time at which something is due.
MAX_TIMESTAMP = 2**40


@dataclass
class Verdict:
    """What was found at rest. ``problems`` maps an event's id to what is wrong with it."""

    problems: dict[str, list[str]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    """From each event's acceptance to its first final status."""
    completed_later: int = 0
    """Events that some sink did not get at first."""

    def percentile(self, share: float) -> float:
        """Seconds to a final status, of this share of the events."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def add(self, key: str, interaction: str, claim: Claim | None, ledger: Ledger) -> None:
        """Check one event."""
        if problems := list(problems_of(key, interaction, claim, ledger)):
            self.problems[key] = problems
        final = [r for r in claim.audit if r["status"] != Status.PROCESSING] if claim else []
        if final:
            self.seconds.append(final[0]["lagMs"] / 1000)
            self.completed_later += final[0]["status"] != Status.COMPLETED


def problems_of(key: str, interaction: str, claim: Claim | None, ledger: Ledger) -> Iterator[str]:
    """The problems of an event that was answered 202."""
    if claim is None:
        yield "has no claim"
        return
    if claim.status is not Status.COMPLETED:
        lacking = ", ".join(claim.undelivered) or "nothing"
        yield f"is {claim.status}, generation {claim.generation}; not delivered: {lacking}"
    if not claim.audit or claim.audit[-1]["status"] != claim.status:
        yield "has no audit record of its status"
    try:
        assert_chain_holds(list(claim.audit))
    except (AssertionError, KeyError):
        yield "has a chain of audit records that does not hold"
    for sink in SINKS:
        entry = ledger.entry(interaction, sink)
        if not entry.taken:
            yield f"was never taken by {sink}"
        if strange := entry.keys - {f"{key}:{sink}"}:
            yield f"came to {sink} under other keys: {', '.join(sorted(strange))}"


def rest(
    claims: Claims,
    accepted: Mapping[str, str],
    ledger: Ledger,
    timeout: float,
    report: Callable[[int], object],
) -> Verdict:
    """Wait, ``timeout`` seconds at most, until every event is completed; check each as it is.

    ``report`` gets the number of events that are left, after each round.
    """
    verdict = Verdict()
    deadline = time.monotonic() + timeout
    left: Sequence[str] = list(accepted)
    with ThreadPoolExecutor(READERS, "rest") as pool:
        while True:
            over = time.monotonic() > deadline
            unfinished = []
            for key, claim in zip(left, pool.map(claims.get, left), strict=True):
                if over or (claim and claim.status is Status.COMPLETED):
                    verdict.add(key, accepted[key], claim, ledger)
                else:
                    unfinished.append(key)
            left = unfinished
            report(len(left))
            if not left:
                break
            time.sleep(PAUSE)
    for key in {entry.key for entry in claims.due(until=MAX_TIMESTAMP)} - verdict.problems.keys():
        verdict.problems[key] = ["is in the index of what is due"]
    kept = Counter(summary.id for summary in claims.received())
    for key in kept.keys() - accepted.keys():
        verdict.problems[key] = ["has a claim, but was never accepted"]
    for key in accepted.keys() - kept.keys() - verdict.problems.keys():
        verdict.problems[key] = ["is not in the index of what was received"]
    return verdict
