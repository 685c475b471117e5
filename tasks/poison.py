"""Containment of events that kill whoever handles them.

A worker's child that dies gives its message back, and a worker that dies leaves it to be handed
out again; both mark it as redelivered. Those few are counted in DynamoDB, since no memory
survives them, and given up after ``MAX_DISPATCHES``. Messages that come once cost nothing here.
"""

from typing import Any

from celery import Task

from tasks.claims import claims
from tasks.errors import StoreError
from tasks.settings import settings


def lost_too_often(task: Task[Any, Any]) -> bool:
    """Tell whether the workers of this message died so often that it must be the message.

    Where DynamoDB does not answer, this time is not counted: that stops no delivery.
    """
    if not (task.request.delivery_info or {}).get("redelivered"):
        return False
    try:
        return claims().count_redelivery(str(task.request.id)) >= settings().max_dispatches
    except StoreError:
        return False
