"""``celery -A tasks sinks …``."""

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

import click
from celery.bin.base import CeleryCommand
from redis import RedisError

from tasks.cli.output import print_json
from tasks.clock import now, to_rfc3339
from tasks.delivery.client import CallResult
from tasks.errors import DeliveryError, SettingsError
from tasks.events import EventType, InteractionEvent, event_from_json
from tasks.events.model import camel_case
from tasks.runtime import breaker_of, client_of
from tasks.settings import SinkSettings, settings
from tasks.sinks import SINKS
from tasks.sinks.base import Policy

#: A value for every field that an event type has.
_SAMPLE = {
    "accountId": "test",
    "agentId": "test",
    "channel": "voice",
    "disposition": "test",
    "durationMs": 0,
    "initialQueue": "test",
    "queue": "test",
    "skill": "test",
    "toQueue": "test",
    "waitMs": 0,
}


@click.group()
def sinks() -> None:
    """List sinks, and send them a test delivery."""


@sinks.command(name="list", cls=CeleryCommand)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def list_(as_json: bool) -> None:
    """Show how each sink is called."""
    for name, sink in settings().sinks.items():
        shown = _describe(sink)
        if as_json:
            print_json({"sink": name, **shown})
        else:
            click.echo("\n".join([name, *_lines(sink.policy, shown)]))


@sinks.command(cls=CeleryCommand)
@click.argument("name", type=click.Choice(list(SINKS)))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def test(name: str, as_json: bool) -> None:
    """Deliver a sample to a sink, past its limits. Exits 1 if the sink does not accept it.

    The sample has the header X-Test-Delivery: true and an Idempotency-Key that begins with test-.
    """
    sink = settings().sinks[name]
    event, moment = _sample(sink), to_rfc3339(now())
    body = sink.sink.body(event, moment)
    key = sink.sink.idempotency_key(f"test-{uuid.uuid4()}")
    result: CallResult | None = None
    error: DeliveryError | None
    began = time.perf_counter()
    try:
        result = client_of(name).call(body, key, {"X-Test-Delivery": "true"})
        error = result.error
    except SettingsError as missing:
        raise click.ClickException(str(missing)) from missing
    except DeliveryError as problem:
        error = problem
    shown = {
        "sink": name,
        "delivered": error is None,
        "request": {"headers": _masked(result.headers, sink) if result else None, "body": body},
        "status": result.response.status if result else None,
        "ms": round(1000 * (time.perf_counter() - began)),
        "error": str(error) if error else None,
        "response": result.excerpt if result else None,
    }
    if as_json:
        print_json(shown)
    else:
        click.echo("\n".join(_transcript(shown)))
    if error:
        raise SystemExit(1)


def _describe(sink: SinkSettings) -> dict[str, Any]:
    """Return what ``sinks list --json`` prints of a sink: of its URL only the host."""
    return {
        "endpoint": urlsplit(sink.url).hostname if sink.url else None,
        "eventTypes": [kind.value for kind in EventType if kind in sink.event_types],
        "policy": _policy_json(sink.policy),
        "authentication": sink.authentication,
        "signing": bool(sink.signing_secrets),
        "breaker": _breaker(sink.sink.name),
    }


def _policy_json(policy: Policy) -> dict[str, Any]:
    values = {camel_case(part): value for part, value in asdict(policy).items()}
    return {"tries": values.pop("maxAttempts"), **values}


def _breaker(name: str) -> str:
    """Return the state of a sink's breaker; settings can be listed without Redis, too."""
    try:
        return breaker_of(name).status().state.value
    except RedisError:
        return "unknown: Redis does not answer"


def _lines(policy: Policy, shown: Mapping[str, Any]) -> Iterator[str]:
    limits = [f"{policy.rate:g} calls a second"] if policy.rate else []
    limits += [f"{policy.concurrency} at once"] if policy.concurrency else []
    for title, text in {
        "endpoint": shown["endpoint"] or "not set",
        "event types": ", ".join(shown["eventTypes"]),
        "tries": f"{policy.max_attempts}; waits up to {policy.backoff_base} s, then twice as long "
        f"each time, up to {policy.backoff_cap} s; Retry-After up to {policy.retry_after_cap} s",
        "time-outs": f"{policy.connect_timeout} s to connect, {policy.read_timeout} s to answer",
        "limits": ", ".join(limits) or "none",
        "breaker": f"opens after {policy.breaker_failures} failures in a row, "
        f"for {policy.breaker_seconds} s; now {shown['breaker']}",
        "auth": shown["authentication"] or "none",
        "signing": "Standard Webhooks" if shown["signing"] else "none",
    }.items():
        yield f"  {title:<12} {text}"


def _sample(sink: SinkSettings) -> InteractionEvent:
    """Make an event of the first type that the sink gets."""
    return event_from_json(
        {
            **_SAMPLE,
            "type": next(kind for kind in EventType if kind in sink.event_types),
            "interactionId": f"test-{uuid.uuid4()}",
            "timestamp": to_rfc3339(now()),
        }
    )


def _masked(headers: Mapping[str, str], sink: SinkSettings) -> dict[str, str]:
    """Mask the headers whose values come from settings."""
    private = {"authorization", *map(str.lower, sink.headers)}
    if sink.credential:
        private.add(sink.credential.header.lower())
    return {name: "***" if name.lower() in private else text for name, text in headers.items()}


def _transcript(shown: Mapping[str, Any]) -> Iterator[str]:
    for name, value in (shown["request"]["headers"] or {}).items():
        yield f"> {name}: {value}"
    yield f"> {json.dumps(shown['request']['body'], ensure_ascii=False)}"
    if shown["response"]:
        yield f"< {shown['response']}"
    result = (
        f"not delivered: {shown['error']}" if shown["error"] else f"{shown['status']}, delivered"
    )
    yield click.style(f"{result}, {shown['ms']} ms", fg="red" if shown["error"] else "green")
