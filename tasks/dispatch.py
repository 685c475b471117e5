"""From a claim to the chord that works on it: a group of deliveries, and settle."""

import json
from typing import Any

from celery import group, uuid
from celery.canvas import Signature

from tasks.celery import app
from tasks.claims import Claim
from tasks.events import InteractionEvent, parse_detail
from tasks.routing import SETTLE, SETTLE_PART, delivery_task, task_id
from tasks.worker.publish import publish


def fan_out(claim: Claim, event: InteractionEvent | None = None) -> None:
    """Publish a delivery to every sink that this dispatch of the claim is for, then settle.

    Task ids follow from the claim, so publishing the same generation twice counts once.

    Raises:
        InvalidEventError: no ``event`` is given, and the claim's is not valid in this release.
    """
    payload = delivery_payload(claim, event)
    settle = settle_signature(claim, len(claim.to_deliver))
    header = [
        app.signature(
            delivery_task(sink),
            args=(claim.id, payload),
            task_id=task_id(claim.id, sink, claim.generation),
        )
        for sink in claim.to_deliver
    ]
    if header:
        # ``celery.chord`` would publish its header message by message.
        publish(app, group(header, app=app).tasks, group_id=uuid(), chord=settle)
    else:
        settle.apply_async()


def delivery_payload(claim: Claim, event: InteractionEvent | None = None) -> dict[str, Any]:
    """Return what a delivery task needs to know beside the key."""
    event = event or event_of(claim)
    return {"event": event.to_json(), "receivedAt": claim.received_at}


def settle_signature(claim: Claim, size: int) -> Signature[Any]:
    """Return the body of a chord of ``size`` deliveries of a claim."""
    return app.signature(
        SETTLE,
        args=(claim.id,),
        kwargs={"head": claim.snapshot.to_json(), "generation": claim.generation},
        task_id=task_id(claim.id, SETTLE_PART, claim.generation),
        headers={"chord_size": size},
    )


def event_of(claim: Claim) -> InteractionEvent:
    """Parse a claim's payload again.

    Raises:
        InvalidEventError: it is the claim of an invalid event.
    """
    return parse_detail(json.loads(claim.payload)["detail"]).event
