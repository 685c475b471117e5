"""Retry: one event to one sink, or to all that lack it, because an operator asks for it."""

import logging
from dataclasses import dataclass

from dashboard.formatting import ago, duration
from dashboard.pages.base import Page, claim_of, in_thread
from tasks.claims import Claim, Status
from tasks.delivery.circuit_breaker import State
from tasks.recovery.redrive import RedriveAnswer, redrive_event
from tasks.runtime import breaker_of, rules
from tasks.runtime import claims as table
from tasks.sinks import SINKS

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What a retry would do, or why there is none."""

    possible: bool
    sinks: tuple[str, ...] = ()  # that it is for
    remarks: tuple[str, ...] = ()


def prospect(claim: Claim, sink: str | None) -> Prospect:
    """Say what a retry would do, to ``sink`` alone or to all that lack the event."""
    if claim.status is Status.PROCESSING:
        return Prospect(possible=False, remarks=("The event is being worked on at this moment.",))
    if claim.status is Status.FAILED and not claim.deliveries:
        invalid = (
            "The event was invalid. It is read anew, by the rules of today; where they accept it, "
            "it goes to every sink that wants it, else nothing changes."
        )
        return Prospect(possible=True, remarks=(invalid,))
    if sink and sink not in claim.deliveries:
        return Prospect(possible=False, remarks=(f"The event does not go to {sink}.",))
    lacking = tuple(name for name in claim.undelivered if name in SINKS and sink in (None, name))
    if not lacking:
        who = sink or "Every sink"
        return Prospect(possible=False, remarks=(f"{who} has the event already.",))
    return Prospect(possible=True, sinks=lacking)


def outlook(claim: Claim, sinks: tuple[str, ...]) -> list[str]:
    """Say of each sink how its delivery stands, and what is to be expected.

    Raises:
        RedisError: Redis does not answer.
    """
    said = []
    for sink in sinks:
        delivery = claim.deliveries[sink]
        at = f", {ago(delivery.at)}" if delivery.at else ""
        tries = "attempt" if delivery.attempts == 1 else "attempts"
        error = f": {delivery.error}" if delivery.error else ""
        said.append(f"{sink}: {delivery.outcome} after {delivery.attempts} {tries}{at}{error}.")
        look = breaker_of(sink).status()
        if look.state is State.OPEN:
            said.append(
                f"The breaker of {sink} is open: the delivery would be parked, without a call. It "
                f"is tried again in {duration(look.probe_in)}, and what is parked goes out by "
                "itself once that succeeds."
            )
    return said


def task_after(claim: Claim, sink: str) -> str:
    """Return the id of the task that the claim's present dispatch gave a sink."""
    return f"{claim.id}.{sink}.{claim.generation}"


class RetryPage(Page):
    """What a retry would do; and, by POST, the retry."""

    async def get(self, key: str) -> None:
        """Say what would happen, and ask."""
        claim = await claim_of(key)
        sink = self.text("sink") or None
        ahead = prospect(claim, sink)
        said = await in_thread(outlook, claim, ahead.sinks)
        self.render(
            "retry.html", claim=claim, sink=sink, prospect=ahead, outlook=said, changed=False
        )

    async def post(self, key: str) -> None:
        """Do it, if the event is still as it was when it was looked at."""
        claim = await claim_of(key)
        sink = self.text("sink") or None
        ahead = prospect(claim, sink)
        under_way = claim.status is Status.PROCESSING  # the second click of two
        if not under_way and self.text("version") != str(claim.version):
            said = await in_thread(outlook, claim, ahead.sinks)
            self.set_status(409)
            self.render(
                "retry.html", claim=claim, sink=sink, prospect=ahead, outlook=said, changed=True
            )
            return
        answer = RedriveAnswer.IN_PROGRESS
        if not under_way:
            answer = await in_thread(
                redrive_event, table(), rules(), key, actor=self.current_user.name, sink=sink
            )
            _log.info("%s retries %s, %s: %s", self.current_user, key, sink or "all sinks", answer)
        if answer in (RedriveAnswer.STILL_INVALID, RedriveAnswer.NOTHING_TO_DO):
            self.redirect(f"{self.reverse_url('event', key)}?said={answer.name}", status=303)
            return
        to = sink or (ahead.sinks[0] if len(ahead.sinks) == 1 else None)
        if to is None or (under_way and to not in claim.to_deliver):
            self.redirect(self.reverse_url("event", key), status=303)
            return
        claim = await claim_of(key)
        self.redirect(self.reverse_url("task", task_after(claim, to)), status=303)
