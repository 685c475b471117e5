"""Names of tasks and queues, and the ids of tasks, which name the event, the part and the dispatch.

Task and queue names are an interface (docs/interface.md): running workers, Flower and operators'
scripts use them.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from uuid import uuid4

#: Tasks.
PROCESS = "process_event"
SETTLE = "settle"
SWEEP = "sweep"
DRAIN = "drain"

#: Queues of tasks that are no deliveries. A sweep that waits behind a backlog would
#: expire there, so sweeps and drains have a queue of their own.
EVENTS_QUEUE = "events"
SETTLE_QUEUE = "settle"
SWEEP_QUEUE = "sweep"

_DELIVER = "deliver."

#: The parts of task ids that are not sinks.
PROCESS_PART = "process"
SETTLE_PART = "settle"

_TASK_ID = re.compile(r"(?P<key>.+)\.(?P<part>[a-z][a-z0-9_]*)\.(?P<end>[0-9]+|[0-9a-f]{8})")


def delivery_task(sink: str) -> str:
    """Return the name of a sink's task, which is that of its queue as well."""
    return _DELIVER + sink


def sink_of_task(name: str) -> str:
    """Return the sink that a delivery task is for."""
    return name.removeprefix(_DELIVER)


def queues(sinks: Iterable[str]) -> list[str]:
    """Name every queue: one per task that can be held up on its own."""
    return [EVENTS_QUEUE, SETTLE_QUEUE, SWEEP_QUEUE, *map(delivery_task, sinks)]


def routes(sinks: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
    """Return the queue of every task, as Celery's ``task_routes`` has it."""
    queue_of = {
        PROCESS: EVENTS_QUEUE,
        SETTLE: SETTLE_QUEUE,
        SWEEP: SWEEP_QUEUE,
        DRAIN: SWEEP_QUEUE,
        **{delivery_task(sink): delivery_task(sink) for sink in sinks},
    }
    return {task: {"queue": queue} for task, queue in queue_of.items()}


class TaskId(NamedTuple):
    """The parts of a task's id: the event's key, the sink (or process, settle), the generation.

    ``process`` has a random end: each publication of an event is a task of its own.
    """

    key: str
    part: str
    end: str


def task_id(key: str, part: str, generation: int) -> str:
    """Return the id of an event's task; the same for the same dispatch, so it counts once."""
    return f"{key}.{part}.{generation}"


def process_task_id(key: str) -> str:
    """Return a new id for ``process_event``.

    It becomes the holder of the claim: two publications of an event must not take each other for
    themselves.
    """
    return f"{key}.{PROCESS_PART}.{uuid4().hex[:8]}"


def parse_task_id(text: str, sinks: Iterable[str]) -> TaskId | None:
    """Read a task's id; None if it is not one of an event's tasks."""
    found = _TASK_ID.fullmatch(text)
    if not found or found["part"] not in {*sinks, SETTLE_PART, PROCESS_PART}:
        return None
    return TaskId(found["key"], found["part"], found["end"])
