"""Flower's page of a task, with Retry; and Flower's API, where it needs to know our tasks."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from flower.api import control as control_api
from flower.api import tasks as task_api
from flower.utils.tasks import get_task_by_id
from flower.views.tasks import TaskView
from tornado.web import HTTPError, authenticated

from dashboard.flower.auth import Guard
from dashboard.pages.base import claim_of
from tasks.claims import Claim, Delivery, Outcome, Status
from tasks.sinks import SINKS

_DELIVERIES: Mapping[str, str] = {sink.task_name: name for name, sink in SINKS.items()}

#: ``<event id>.<sink>.<generation>``, and ``process``, whose messages have random ends.
_TASK_ID = re.compile(r"(?P<key>.+)\.(?P<part>[a-z][a-z0-9_]*)\.(?P<end>[0-9]+|[0-9a-f]{8})")

#: Why some tasks cannot be stopped, by the part of their id.
_UNSTOPPABLE: Mapping[str, str] = {
    "process": "It cannot be stopped: its event was accepted, and would be lost.",
    "settle": "It cannot be stopped: it notes what became of the event. "
    "A sweep would start it anew.",
}
_PARTS: Mapping[str, str] = {"process_event": "process", "settle": "settle"}


class TaskId(NamedTuple):
    """What an id of one of our tasks tells: of which event, and which part of its way."""

    key: str
    part: str
    end: str


def parse_task_id(task_id: str) -> TaskId | None:
    """Read the id of a task; None if it does not tell its event."""
    found = _TASK_ID.fullmatch(task_id)
    if not found or found["part"] not in {*SINKS, "settle", "process"}:
        return None
    return TaskId(found["key"], found["part"], found["end"])


def event_of_arguments(arguments: str | None) -> str | None:
    """Return the event id from a task's arguments as Flower shows them; nothing else is read."""
    try:
        values = ast.literal_eval(arguments or "")
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # cut off, or not of ours
        return None
    first = values[0] if isinstance(values, list | tuple) and values else None
    return first if isinstance(first, str) else None


def task_of(name: str | None, task_id: str, arguments: str | None) -> TaskId | None:
    """Tell which part of which event's way a task is.

    A delivery that was started by hand has an id that tells nothing; its arguments do.
    """
    if told := parse_task_id(task_id):
        return told
    part = _DELIVERIES.get(name or "") or _PARTS.get(name or "")
    key = event_of_arguments(arguments) if part else None
    return TaskId(key, part, "") if key and part else None


def is_of(told: TaskId | None, claim: Claim) -> bool:
    """Tell whether an event has, or had, a task of this id, as far as its claim shows."""
    if told is None or told.part == "process":
        return told is not None
    known = told.part == "settle" or told.part in claim.deliveries
    return (
        known
        and told.end.isdecimal()
        and len(told.end) < 10  # Python reads no number of thousands of digits
        and 1 <= int(told.end) <= claim.generation
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What we add to the page of a task."""

    told: TaskId | None
    delivery: Delivery | None  # as the claim has it; None where there is none, or none was read
    retry: bool  # whether to offer it
    stop: str | None  # Flower's button to offer: terminate or revoke
    why_not: str | None  # why there is no such button


def desk_of(told: TaskId | None, state: str | None, claim: Claim | None, *, may_act: bool) -> Desk:
    """Say what we add to the page of a task in this state of Flower's (None: not known to it)."""
    sink = told.part if told and told.part in SINKS else None
    delivery = claim.deliveries.get(sink) if claim and sink else None
    over = state in ("FAILURE", "REVOKED", None)
    lacking = delivery is None or delivery.outcome is not Outcome.DELIVERED
    busy = claim is not None and claim.status is Status.PROCESSING
    running = {"STARTED": "terminate", "RECEIVED": "revoke", "RETRY": "revoke"}.get(state or "")
    why_not = _UNSTOPPABLE.get(told.part) if told and running else None
    return Desk(
        told=told,
        delivery=delivery,
        retry=may_act and sink is not None and over and lacking and not busy,
        stop=running if may_act and not why_not else None,
        why_not=why_not if may_act else None,
    )


class TaskPage(Guard, TaskView):
    """The page of a task; also of one that Flower does not remember, or has not heard of yet."""

    _desk: Desk

    @authenticated
    async def get(self, task_id: str) -> None:
        """Show it."""
        task = get_task_by_id(self.application.events, task_id)
        told = (
            task_of(task.name, task.uuid, task.args) if task is not None else parse_task_id(task_id)
        )
        claim = await self._claim(told)
        state = task.state if task is not None else None
        self._desk = desk_of(told, state, claim, may_act=self.may_act)
        if task is not None or claim is None or not is_of(told, claim):
            super().get(task_id)
        else:
            self.render("task_unknown.html", task_id=task_id, claim=claim)

    async def _claim(self, told: TaskId | None) -> Claim | None:
        """Read the claim where it is to be had; the page shows what Flower knows without it."""
        try:
            return await claim_of(told.key) if told else None
        except HTTPError:
            return None

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """Render, with what the template of ours needs that stands in Flower's."""
        return super().render(*args, desk=getattr(self, "_desk", None), **kwargs)


class Signed(Guard, task_api.BaseTaskHandler):
    """Flower's ways to start a task by its name: a delivery tells who asked for it."""

    def get_task_args(self) -> tuple[Any, Any, Any]:
        """Return arguments and options of the task to start.

        Raises:
            HTTPError: 400, where a delivery is to be started with more than its event's id.
        """
        args, kwargs, options = super().get_task_args()
        if self.path_args[0] in _DELIVERIES:
            if len(args) != 1 or kwargs:
                raise HTTPError(400, f'{self.path_args[0]} takes {{"args": ["EVENT-ID"]}}, no more')
            kwargs = {"actor": self.current_user.name}
        return args, kwargs, options


class Apply(Signed, task_api.TaskApply):
    """``POST /api/task/apply/…``."""


class AsyncApply(Signed, task_api.TaskAsyncApply):
    """``POST /api/task/async-apply/…``."""


class Send(Signed, task_api.TaskSend):
    """``POST /api/task/send-task/…``."""


class Revoke(Guard, control_api.TaskRevoke):
    """``POST /api/task/revoke/…``, which Flower's Terminate and Revoke buttons call."""

    def prepare(self) -> Any:
        """Stop a revocation that would do harm.

        Raises:
            HTTPError: 409, saying why it is not done.
        """
        answer = super().prepare()
        told = parse_task_id(self.path_args[0])
        if told and told.part in _UNSTOPPABLE:
            raise HTTPError(409, _UNSTOPPABLE[told.part])
        return answer
