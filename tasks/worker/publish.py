"""Publish several tasks in one round trip: the messages that ``apply_async`` would send.

``apply_async`` looks up routes, options, a producer and the parent for each message, which takes
as long as a call of DynamoDB. Here that is done once, for this project's tasks alone: each has one
queue, and its result is ignored.
"""

import time
from collections.abc import Sequence
from typing import Any

from celery import Celery
from celery.canvas import Signature
from kombu.exceptions import BatchPublishError  # type: ignore[attr-defined] # its stub is older

#: Version of the messages; raised when workers of the previous release could not read them.
MESSAGE_SCHEMA = 1


def message_options(*key: str) -> dict[str, Any]:
    """Return the publishing options that every message has.

    Flower and logs get to see the dedup key alone, since the other arguments may be personal data.
    A worker of another release reads the schema first, and a sweep reads how long messages wait
    from the time of publication, in seconds since the epoch.
    """
    return {
        "argsrepr": repr(key),
        "kwargsrepr": "{}",
        "headers": {"message_schema": MESSAGE_SCHEMA, "published_at": time.time()},
    }


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
        RedisError: Redis did not answer, or refused; some of the messages may be in their queues.
    """
    parent = app.current_worker_task
    common: dict[str, Any] = {"group_id": group_id, "chord": chord}
    if parent:
        common["parent_id"] = parent.request.id
        common["root_id"] = parent.request.root_id or parent.request.id
    try:
        with app.producer_or_acquire() as producer, producer.batch(2 * len(signatures)):
            for index, signature in enumerate(signatures):
                options = {**common, "group_index": index if group_id else None}
                _publish(app, producer, signature, options)
    except BatchPublishError as error:
        raise (error.__cause__ or error) from None


def _publish(
    app: Celery, producer: Any, signature: Signature[Any], options: dict[str, Any]
) -> None:
    name = str(signature.task)
    shown = message_options(*signature.args[:1])
    task: Any = app.tasks.get(name)  # ingest knows its name alone
    message = app.amqp.as_task_v2(
        str(signature.options["task_id"]),
        name,
        signature.args,
        {},
        time_limit=task and task.time_limit,
        soft_time_limit=task and task.soft_time_limit,
        argsrepr=shown["argsrepr"],
        kwargsrepr=shown["kwargsrepr"],
        ignore_result=True,
        **options,
    )
    producer.publish(
        message.body,
        exchange="",
        routing_key=app.conf.task_routes[name]["queue"],
        serializer="json",
        headers=message.headers | shown["headers"],
        **message.properties,
    )
