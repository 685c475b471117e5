"""The page of one event: its deliveries, what happened to it, and its audit records."""

import json
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

from tornado.web import HTTPError

from dashboard.pages.base import Page, claim_of
from dashboard.timeline import TONES, generations, timeline
from tasks.claims import Claim, Status, audit
from tasks.claims.audit import verify_claim
from tasks.clock import now, to_rfc3339
from tasks.recovery.redrive import RedriveAnswer
from tasks.routing import SETTLE_PART, task_id
from tasks.settings import settings
from tasks.sinks import SINKS

#: The newest dispatches of an event whose tasks are looked up in Flower's memory.
MAX_DISPATCHES = 20

#: What to report of a retry that did nothing, by the name of its answer.
_RETRY_RESULTS = {
    RedriveAnswer.STILL_INVALID.name: "The event is still invalid. Nothing was changed.",
    RedriveAnswer.NOTHING_TO_DO.name: "There was nothing to do: it has been delivered already.",
}


class RecentTask(NamedTuple):
    """A task of an event, as Flower remembers it."""

    id: str
    part: str
    state: str
    seconds: float | None  # how long it ran
    retries: int
    worker: str | None


def recent_tasks(tasks: Mapping[str, Any], claim: Claim) -> Iterator[RecentTask]:
    """Yield the tasks of an event that Flower remembers, oldest dispatch first.

    Flower keeps tasks by id alone; what is looked up are the ids that an event's tasks have.
    """
    dispatches = range(max(1, claim.generation - MAX_DISPATCHES + 1), claim.generation + 1)
    for generation, part in product(dispatches, (*claim.deliveries, SETTLE_PART)):
        task = tasks.get(task_id(claim.id, part, generation))
        if task is not None:
            worker = getattr(task.worker, "hostname", None)
            yield RecentTask(task.uuid, part, task.state, _runtime(task), task.retries or 0, worker)


def _runtime(task: Any) -> float | None:
    """Return how long a task ran; Celery reports that only of a task that succeeded."""
    end = task.failed or task.revoked
    return task.runtime or (end - task.started if end and task.started else None)


def payload_of(claim: Claim) -> str:
    """Return the envelope in a readable form; it is personal data."""
    try:
        return json.dumps(json.loads(claim.payload), indent=2, ensure_ascii=False)
    except ValueError:  # it was too large to be kept, or is no JSON
        return claim.payload.decode("utf-8", "replace") or "It was too large to be kept."


class EventPage(Page):
    """An event, without personal data."""

    async def get(self, key: str) -> None:
        """Show it."""
        self.show(await claim_of(key))

    def show(self, claim: Claim, *, payload: str | None = None) -> None:
        """Render it; with ``payload`` and the sinks' answers where that is given."""
        self.render(
            "event_detail.html",
            claim=claim,
            timeline=timeline(claim),
            tones=TONES,
            generations=generations,
            task_id=task_id,
            recent_tasks=list(recent_tasks(self.application.events.state.tasks, claim)),
            problems=verify_claim(claim),
            sinks=SINKS,
            payload=payload,
            show_payloads=settings().dashboard_show_payloads,
            in_progress=claim.status is Status.PROCESSING,
            retry_result=_RETRY_RESULTS.get(self.text("said")),
        )


class PayloadPage(EventPage):
    """An event with personal data: for operators, if ``DASHBOARD_SHOW_PAYLOADS`` is on."""

    async def get(self, key: str) -> None:
        """Show the event without it, as after a reload: every view of a payload is a POST."""
        self.redirect(self.reverse_url("event", key))

    async def post(self, key: str) -> None:
        """Log who views it, then show it.

        Raises:
            HTTPError: 403 if the setting is off.
        """
        if not settings().dashboard_show_payloads:
            raise HTTPError(403, "Payloads are not shown here: DASHBOARD_SHOW_PAYLOADS is off.")
        claim = await claim_of(key)
        view = {"eventId": claim.id, "action": "payload viewed", "actor": self.current_user.name}
        audit.log_records([{**view, "at": to_rfc3339(now())}])
        self.show(claim, payload=payload_of(claim))
