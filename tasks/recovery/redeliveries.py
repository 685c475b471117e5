"""Containment of poison messages: those that kill every worker that handles them.

A message that no worker acknowledged is delivered again, marked as redelivered. Those few are
counted in DynamoDB, since no memory of a worker survives them, and given up after so many. Messages
that come once cost nothing here.
"""

from typing import Any

from celery import Task

from tasks.claims import Claims
from tasks.errors import StoreError


def exceeds_max_receives(task: Task[Any, Any], claims: Claims, max_receives: int) -> bool:
    """Whether this message was redelivered so often that it must be what kills its workers.

    Where DynamoDB does not answer, this time is not counted: that stops no delivery.
    """
    if not (task.request.delivery_info or {}).get("redelivered"):
        return False
    try:
        return claims.count_redelivery(str(task.request.id)) >= max_receives
    except StoreError:
        return False
