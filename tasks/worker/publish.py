"""Publishing several tasks in one round trip: the messages that ``apply_async`` would send.

It looks routes, options, producers and parents up for each message, by way of canvas, app, amqp and
kombu, which takes as long as a call of DynamoDB. Here that is done once, for our own tasks alone:
each has one queue, and its result is ignored.
"""

import json
from collections.abc import Sequence
from typing import Any

from celery import Celery
from celery.canvas import Signature

from tasks.celery import message_options


def publish(
    app: Celery,
    signatures: Sequence[Signature[Any]],
    *,
    group_id: str | None = None,
    chord: Signature[Any] | None = None,
) -> None:
    """Publish tasks; with ``group_id`` and ``chord``, as the header of a chord.

    Signatures have positional arguments, and a task id. As with Celery, tasks that a task publishes
    name it as their parent.

    Raises:
        RedisError: some of them may have got there.
    """
    parent = app.current_worker_task
    common: dict[str, Any] = {"group_id": group_id, "chord": chord}
    if parent:
        common["parent_id"] = parent.request.id
        common["root_id"] = parent.request.root_id or parent.request.id
    with app.producer_or_acquire() as producer:
        channel: Any = producer.channel
        messages = []
        for index, signature in enumerate(signatures):
            more = {**common, "group_index": index if group_id else None}
            queue = app.conf.task_routes[signature.task]["queue"]
            messages.append((queue, _message(app, channel, signature, more)))
        channel.put_all(messages)


def _message(app: Celery, channel: Any, signature: Signature[Any], more: dict[str, Any]) -> Any:
    name = str(signature.task)
    options = message_options(*signature.args[:1])
    task: Any = app.tasks.get(name)  # ingest knows its name alone
    made = app.amqp.as_task_v2(
        str(signature.options["task_id"]),
        name,
        signature.args,
        {},
        time_limit=task and task.time_limit,
        soft_time_limit=task and task.soft_time_limit,
        argsrepr=options["argsrepr"],
        kwargsrepr=options["kwargsrepr"],
        ignore_result=True,
        **more,
    )
    return channel.prepare_message(
        json.dumps(made.body),
        content_type="application/json",
        content_encoding="utf-8",
        headers=made.headers | options["headers"],
        properties={**made.properties, "delivery_mode": 2},
    )
