"""What the commands print: JSON, lines of a list, colours; and errors without a traceback."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import wraps
from typing import Any

import click
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tasks.claims import Call, Claim, Delivery, Outcome, Status, Summary
from tasks.claims.outcomes import undelivered
from tasks.clock import to_rfc3339
from tasks.delivery.circuit_breaker import State
from tasks.errors import ClaimNotFoundError, StoreError, UnknownSchemaError

_COLOURS: Mapping[str, str] = {
    word: colour
    for colour, words in {
        "green": (Outcome.DELIVERED, Status.COMPLETED, State.CLOSED),
        "yellow": (Outcome.PENDING, Outcome.PARKED, Status.PROCESSING, State.HALF_OPEN),
        "red": (Outcome.FAILED, Outcome.REVOKED, Status.PARTIAL_FAILURE, State.OPEN),
    }.items()
    for word in words
}


def paint(word: str, width: int = 0) -> str:
    """Return a status, outcome or state in its colour."""
    return click.style(f"{word:<{width}}", fg=_COLOURS.get(word))


def handle_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command end with a message: no such claim; DynamoDB or Redis does not answer."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ClaimNotFoundError, StoreError, UnknownSchemaError) as error:
            raise click.ClickException(str(error)) from error
        except (RedisError, OperationalError) as error:
            raise click.ClickException(f"Redis: {error}") from error

    return wrapper


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    click.echo(json.dumps(value, ensure_ascii=False))


def claim_json(claim: Claim) -> dict[str, Any]:
    """Return what ``claims show --json`` prints of a claim: no metadata, no payload."""
    due = datetime.fromtimestamp(claim.due_at, tz=UTC) if claim.due_at else None
    return {
        "eventId": claim.id,
        "interactionId": claim.interaction_id,
        "eventType": claim.event_type,
        "status": claim.status.value,
        "version": claim.version,
        "receivedAt": claim.received_at,
        "processedAt": claim.processed_at,
        "lagMs": claim.lag_ms,
        "deliveries": _deliveries_json(claim.deliveries),
        "dueAt": to_rfc3339(due) if due else None,
        "audit": list(claim.audit),
    }


def summary_json(summary: Summary) -> dict[str, Any]:
    """Return what ``claims list --json`` prints of an event."""
    return {
        "eventId": summary.id,
        "interactionId": summary.interaction_id,
        "eventType": summary.event_type,
        "status": summary.status.value,
        "receivedAt": summary.received_at,
        "deliveries": _deliveries_json(summary.deliveries),
    }


def _deliveries_json(deliveries: Mapping[str, Delivery]) -> dict[str, Any]:
    return {sink: delivery_json(delivery) for sink, delivery in deliveries.items()}


def delivery_json(delivery: Delivery) -> dict[str, Any]:
    """Return what is printed of one delivery."""
    return {
        "outcome": delivery.outcome.value,
        "attempts": delivery.attempts,
        "error": delivery.error,
        "at": delivery.at,
        "calls": [_call_json(call) for call in delivery.calls],
        **({"response": delivery.response} if delivery.response else {}),
    }


def _call_json(call: Call) -> dict[str, Any]:
    return {
        "at": call.begun,
        "ms": call.ms,
        "status": call.status or None,
        "error": call.error or None,
    }


def print_line(summary: Summary) -> None:
    """Print one event as a line of a list."""
    sinks = undelivered(summary.deliveries)
    lacking = f"not {sinks[0]}" if len(sinks) == 1 else f"not {len(sinks)} sinks" if sinks else ""
    received = summary.received_at[5:19].replace("T", " ")
    kind = summary.event_type or "–"
    status = paint(summary.status, 15)
    click.echo(f"{received}  {status}  {kind:<9}  {printable(summary.id)}  {lacking}".rstrip())


def printable(text: str) -> str:
    """Replace what would control the terminal: ids and metadata names come from outside."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
