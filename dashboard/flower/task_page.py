"""Flower's page of a task, with Retry; and Flower's API where it starts or revokes our tasks."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flower.api.control import TaskRevoke
from flower.api.tasks import BaseTaskHandler
from flower.utils.tasks import get_task_by_id
from flower.views.tasks import TaskView
from tornado.web import HTTPError, authenticated

from dashboard.flower.auth import Guard
from dashboard.pages.base import claim_of
from tasks.claims import Claim, Delivery, Outcome, Status
from tasks.clock import from_rfc3339, now
from tasks.routing import (
    PROCESS,
    PROCESS_PART,
    SETTLE,
    SETTLE_PART,
    TaskId,
    delivery_task,
    parse_task_id,
)
from tasks.sinks import SINKS

_DELIVERIES: Mapping[str, str] = {delivery_task(sink): sink for sink in SINKS}

_PARTS: Mapping[str, str] = {PROCESS: PROCESS_PART, SETTLE: SETTLE_PART, **_DELIVERIES}

#: Why some tasks cannot be stopped, by the part of their id.
_UNSTOPPABLE: Mapping[str, str] = {
    PROCESS_PART: "It cannot be stopped: its event was accepted, and would be lost.",
    SETTLE_PART: "It cannot be stopped: it records the outcome of the event. "
    "A sweep would start it again.",
}

#: Flower's button for a running task, by state.
_STOP_BUTTONS: Mapping[str | None, str] = {
    "STARTED": "terminate",
    "RECEIVED": "revoke",
    "RETRY": "revoke",
}

#: Flower's states that no other follows.
_FINAL_STATES = ("SUCCESS", "FAILURE", "REVOKED")

#: How much later than its event settles Flower may hear of a task.
MAX_EVENT_DELAY = timedelta(minutes=1)


def key_of_arguments(arguments: str | None) -> str | None:
    """Return the event id from a task's arguments as Flower shows them; nothing else is read."""
    try:
        values = ast.literal_eval(arguments or "")
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # cut off, or of another task
        return None
    first = values[0] if isinstance(values, list | tuple) and values else None
    return first if isinstance(first, str) else None


def identify(name: str | None, task_id: str, arguments: str | None) -> TaskId | None:
    """Return which event, and which part of its way, a task is for; None if unknown.

    A delivery that was started through Flower's API has a random id; its arguments have the key.
    """
    if parsed := parse_task_id(task_id, SINKS):
        return parsed
    part = _PARTS.get(name or "")
    key = key_of_arguments(arguments) if part else None
    return TaskId(key, part, "") if key and part else None


def has_task(claim: Claim, task: TaskId) -> bool:
    """Return whether an event has, or had, this task, as far as its claim shows."""
    if task.part == PROCESS_PART:
        return True
    known = task.part == SETTLE_PART or task.part in claim.deliveries
    return (
        known
        and task.end.isdecimal()
        and len(task.end) < 10  # Python refuses to convert thousands of digits
        and 1 <= int(task.end) <= claim.generation
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskActions:
    """What the dashboard shows and offers on the page of a task."""

    task: TaskId | None
    delivery: Delivery | None  # from the claim; None without a claim, or for other tasks
    in_progress: bool  # whether the claim's present dispatch is for this sink
    state: str | None  # Flower's, of the task
    follow: bool  # whether to refresh the page
    retry: bool  # whether to offer it
    stop: str | None  # which of Flower's buttons to offer: terminate or revoke
    no_stop_reason: str | None  # why a running task has no such button


def may_change(state: str | None, claim: Claim, moment: datetime) -> bool:
    """Return whether a task in this state, or its event, may soon change.

    The event may have settled before Flower hears of the task at all.
    """
    if claim.status is Status.PROCESSING:
        return True
    settled = from_rfc3339(claim.processed_at) if claim.processed_at else None
    return state not in _FINAL_STATES and settled is not None and moment - settled < MAX_EVENT_DELAY


def actions_for(
    task: TaskId | None, state: str | None, claim: Claim | None, *, is_operator: bool
) -> TaskActions:
    """Return what to show for a task; ``state`` is Flower's, None where Flower does not know it."""
    sink = task.part if task and task.part in SINKS else None
    delivery = claim.deliveries.get(sink) if claim and sink else None
    is_over = state in ("FAILURE", "REVOKED", None)
    is_undelivered = delivery is None or delivery.outcome is not Outcome.DELIVERED
    in_progress = claim is not None and claim.status is Status.PROCESSING
    stop = _STOP_BUTTONS.get(state) if is_operator else None
    reason = _UNSTOPPABLE.get(task.part) if task and stop else None
    return TaskActions(
        task=task,
        delivery=delivery,
        in_progress=claim is not None and in_progress and sink in claim.to_deliver,
        state=state,
        follow=claim is not None and may_change(state, claim, now()),
        retry=is_operator and sink is not None and is_over and is_undelivered and not in_progress,
        stop=None if reason else stop,
        no_stop_reason=reason,
    )


class TaskPage(Guard, TaskView):
    """The page of a task; also of one that Flower has forgotten, or has not heard of yet."""

    _actions: TaskActions

    @authenticated
    async def get(self, task_id: str) -> None:
        """Show it."""
        known = get_task_by_id(self.application.events, task_id)
        if known is None:
            task, state = parse_task_id(task_id, SINKS), None
        else:
            task, state = identify(known.name, known.uuid, known.args), known.state
        claim = await self._claim(task)
        self._actions = actions_for(task, state, claim, is_operator=self.is_operator)
        if known is None and task and claim and has_task(claim, task):
            self.render("task_unknown.html", task_id=task_id, claim=claim)
        else:
            super().get(task_id)

    async def _claim(self, task: TaskId | None) -> Claim | None:
        """Read the claim if possible; without it, the page shows what Flower knows."""
        try:
            return await claim_of(task.key) if task else None
        except HTTPError:
            return None

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """Render, with what the template spliced into Flower's needs."""
        return super().render(*args, actions=getattr(self, "_actions", None), **kwargs)


class StartGuard(Guard, BaseTaskHandler):
    """Flower's API to start a task by name: a delivery gets the user as its actor."""

    def get_task_args(self) -> tuple[Any, Any, Any]:
        """Return arguments and options of the task to start.

        Raises:
            HTTPError: 400 if a delivery is to be started with more than its event's id.
        """
        args, kwargs, options = super().get_task_args()
        if self.path_args[0] in _DELIVERIES:
            if len(args) != 1 or kwargs:
                raise HTTPError(400, f'{self.path_args[0]} takes {{"args": ["EVENT-ID"]}}, no more')
            kwargs = {"actor": self.current_user.name}
        return args, kwargs, options


class Revoke(Guard, TaskRevoke):
    """``POST /api/task/revoke/…``, which Flower's Terminate and Revoke buttons call."""

    def prepare(self) -> Any:
        """Refuse to revoke a task that cannot be revoked safely.

        Raises:
            HTTPError: 409, with the reason.
        """
        result = super().prepare()
        task = parse_task_id(self.path_args[0], SINKS)
        if task and task.part in _UNSTOPPABLE:
            raise HTTPError(409, _UNSTOPPABLE[task.part])
        return result
