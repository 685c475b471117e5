"""Retry: deliver one event again, to one sink or to all that lack it."""

import logging
from typing import NamedTuple

from dashboard.formatting import ago, duration, plural
from dashboard.pages.base import Page, claim_of, in_thread
from tasks.claims import Claim, Status
from tasks.delivery.circuit_breaker import State
from tasks.recovery.redrive import RedriveAnswer, redrive_event
from tasks.routing import task_id
from tasks.runtime import breaker_of, rules
from tasks.runtime import claims as table
from tasks.sinks import SINKS

_log = logging.getLogger(__name__)


class RetryPreview(NamedTuple):
    """What a retry would do, or why none is possible."""

    possible: bool
    sinks: tuple[str, ...] = ()  # to which it would deliver
    remark: str | None = None


def preview(claim: Claim, sink: str | None) -> RetryPreview:
    """Return what a retry would do, to ``sink`` alone or to all that lack the event."""
    if claim.status is Status.PROCESSING:
        return RetryPreview(possible=False, remark="The event is in progress.")
    if claim.is_invalid:
        remark = (
            "The event was invalid. It is validated again with the current rules: if it is valid "
            "now, it goes to every sink for its type; otherwise nothing changes."
        )
        return RetryPreview(possible=True, remark=remark)
    if sink and sink not in claim.deliveries:
        return RetryPreview(possible=False, remark=f"The event does not go to {sink}.")
    lacking = tuple(name for name in claim.undelivered if name in SINKS and sink in (None, name))
    if not lacking:
        remark = f"{sink or 'Every sink'} has the event already."
        return RetryPreview(possible=False, remark=remark)
    return RetryPreview(possible=True, sinks=lacking)


def describe_deliveries(claim: Claim, sinks: tuple[str, ...]) -> list[str]:
    """Describe the last outcome at each sink, and its circuit breaker if that is open.

    Raises:
        RedisError: Redis does not answer.
    """
    lines = []
    for sink in sinks:
        delivery = claim.deliveries[sink]
        at = f", {ago(delivery.at)}" if delivery.at else ""
        attempts = plural(delivery.attempts, "attempt")
        error = f": {delivery.error}" if delivery.error else ""
        lines.append(f"{sink}: {delivery.outcome} after {attempts}{at}{error}.")
        breaker = breaker_of(sink).status()
        if breaker.state is State.OPEN:
            lines.append(
                f"The circuit breaker of {sink} is open: the delivery would be parked, without a "
                f"call. The next probe is in {duration(breaker.probe_in)}; once one succeeds, "
                "parked events are delivered automatically."
            )
    return lines


class RetryPage(Page):
    """What a retry would do; and, by POST, the retry."""

    async def get(self, key: str) -> None:
        """Show what would happen, and ask."""
        await self._show(await claim_of(key), changed=False)

    async def post(self, key: str) -> None:
        """Do it, unless the event has changed since it was shown."""
        claim = await claim_of(key)
        sink = self.text("sink") or None
        in_progress = claim.status is Status.PROCESSING  # the second click of two
        if not in_progress:
            if self.text("version") != str(claim.version):
                self.set_status(409)
                await self._show(claim, changed=True)
                return
            answer = await in_thread(
                redrive_event, table(), rules(), key, actor=self.current_user.name, sink=sink
            )
            _log.info("%s retries %s, %s: %s", self.current_user, key, sink or "all sinks", answer)
            if answer in (RedriveAnswer.STILL_INVALID, RedriveAnswer.NOTHING_TO_DO):
                self.redirect(f"{self.reverse_url('event', key)}?said={answer.name}", status=303)
                return
        sinks = preview(claim, sink).sinks
        to = sink or (sinks[0] if len(sinks) == 1 else None)
        if to is None or (in_progress and to not in claim.to_deliver):
            self.redirect(self.reverse_url("event", key), status=303)
            return
        generation = (await claim_of(key)).generation
        self.redirect(self.reverse_url("task", task_id(key, to, generation)), status=303)

    async def _show(self, claim: Claim, *, changed: bool) -> None:
        sink = self.text("sink") or None
        ahead = preview(claim, sink)
        self.render(
            "retry.html",
            claim=claim,
            sink=sink,
            preview=ahead,
            deliveries=await in_thread(describe_deliveries, claim, ahead.sinks),
            changed=changed,
        )
