"""One event's whole life on a page."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tornado.web import HTTPError

from dashboard.pages.base import Page, claim_of
from dashboard.timeline import TONES, generations, timeline
from tasks.claims import Claim, Status, audit
from tasks.claims.audit import verify_claim
from tasks.clock import now, to_rfc3339
from tasks.settings import settings
from tasks.sinks import SINKS

#: Dispatches of an event whose tasks are looked for in Flower's memory.
LOOKED_FOR = 20

#: What came of a retry that did nothing, by the name of its answer.
_SAID = {
    "STILL_INVALID": "The rules refuse the event as before; nothing was changed.",
    "NOTHING_TO_DO": "There was nothing to do: it is delivered already.",
}


class Remembered(NamedTuple):
    """A task of an event, as Flower remembers it."""

    id: str
    part: str
    state: str
    seconds: float | None  # that it took
    retries: int
    worker: str | None


def remembered(tasks: Mapping[str, Any], claim: Claim) -> Iterator[Remembered]:
    """Yield what Flower remembers of an event's tasks, oldest dispatch first.

    Its history is by task id alone, so what is looked for is what the ids must be.
    """
    for generation in range(max(1, claim.generation - LOOKED_FOR + 1), claim.generation + 1):
        for part in (*claim.deliveries, "settle"):
            task = tasks.get(f"{claim.id}.{part}.{generation}")
            if task is not None:
                yield Remembered(
                    task.uuid,
                    part,
                    task.state,
                    _took(task),
                    task.retries or 0,
                    getattr(task.worker, "hostname", None),
                )


def _took(task: Any) -> float | None:
    """Return how long a task ran; of one that failed, Celery does not say so itself."""
    end = task.failed or task.revoked
    return task.runtime or (end - task.started if end and task.started else None)


def payload_of(claim: Claim) -> str:
    """Return the envelope as it came, to be read by people; it is personal data."""
    try:
        return json.dumps(json.loads(claim.payload), indent=2, ensure_ascii=False)
    except ValueError:  # it was too large to keep, or is none
        return claim.payload.decode("utf-8", "replace") or "It was too large to be kept."


class EventPage(Page):
    """An event: how its deliveries stand, what happened, and its audit records."""

    async def get(self, key: str) -> None:
        """Show it, without what is personal data."""
        self.show(await claim_of(key))

    def show(self, claim: Claim, *, payload: str | None = None) -> None:
        """Render it; with its payload and what sinks answered, where ``payload`` is given."""
        self.render(
            "event_detail.html",
            claim=claim,
            timeline=timeline(claim),
            tones=TONES,
            generations=generations,
            remembered=list(remembered(self.application.events.state.tasks, claim)),
            problems=verify_claim(claim),
            sinks=SINKS,
            payload=payload,
            payloads_shown=settings().dashboard_show_payloads,
            busy=claim.status is Status.PROCESSING,
            said=_SAID.get(self.text("said")),
        )


class PayloadPage(EventPage):
    """The same with what is personal data: for operators, where a setting allows it."""

    async def get(self, key: str) -> None:
        """Show it without, as after a reload: nobody looks by accident."""
        self.redirect(self.reverse_url("event", key))

    async def post(self, key: str) -> None:
        """Note who looks, then show it.

        Raises:
            HTTPError: 403 where the setting does not allow it.
        """
        if not settings().dashboard_show_payloads:
            raise HTTPError(403, "Payloads are not shown here: DASHBOARD_SHOW_PAYLOADS is off.")
        claim = await claim_of(key)
        look = {
            "eventId": claim.id,
            "action": "payload viewed",
            "actor": self.current_user.name,
            "at": to_rfc3339(now()),
        }
        audit.log_records([look])
        self.show(claim, payload=payload_of(claim))
