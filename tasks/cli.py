"""``celery -A tasks claims …`` and ``celery -A tasks audit …``."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from itertools import islice
from typing import Any

import click
from celery.bin.base import CeleryCommand
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tasks.breaker import State
from tasks.claims import END_OF_TIME, Claim, Summary
from tasks.claims import claims as table
from tasks.errors import StoreError, UnknownSchemaError
from tasks.outcomes import Delivery, Outcome, Status, undelivered
from tasks.redis import client as redis
from tasks.sinks import SINKS
from tasks.stats import collect

_COLOURS: Mapping[str, str] = {
    Outcome.DELIVERED: "green",
    Outcome.FAILED: "red",
    Outcome.REVOKED: "red",
    Outcome.PARKED: "yellow",
    Outcome.PENDING: "yellow",
    Status.COMPLETED: "green",
    Status.PARTIAL_FAILURE: "red",
    Status.PROCESSING: "yellow",
    State.CLOSED: "green",
    State.OPEN: "red",
    State.HALF_OPEN: "yellow",
}


def _paint(word: str, width: int = 0) -> str:
    return click.style(f"{word:<{width}}", fg=_COLOURS.get(word))


def tell_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command end with a message where DynamoDB or Redis does not answer."""

    @wraps(command)
    def told(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (StoreError, UnknownSchemaError) as error:
            raise click.ClickException(str(error)) from error
        except (RedisError, OperationalError) as error:
            raise click.ClickException(f"Redis: {error}") from error

    return told


@click.group()
def claims() -> None:
    """Look at events: their claims, deliveries and audit records."""


@claims.command(cls=CeleryCommand)
@click.argument("key", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@tell_errors
def show(key: str, as_json: bool) -> None:
    """Show the whole life of one event. ID is its event id, or ID@REPLAY-NAME for a replay."""
    claim = _get(key)
    if as_json:
        _print_json(claim.to_json())
    else:
        click.echo("\n".join(_describe(claim)))


@claims.command(name="list", cls=CeleryCommand)
@click.option("--status", type=click.Choice([str(s) for s in Status]), help="With this status.")
@click.option("--due", is_flag=True, help="With something left to do; the longest due first.")
@click.option("--sink", type=click.Choice(list(SINKS)), help="That this sink has not got.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@tell_errors
def list_(status: str | None, due: bool, sink: str | None, limit: int, as_json: bool) -> None:
    """List events, oldest first."""
    found = (
        summary
        for summary in (_due() if due else table().received())
        if (status is None or summary.status == status)
        and (sink is None or sink in undelivered(summary.deliveries))
    )
    listed = list(islice(found, limit))
    if as_json:
        for summary in listed:
            _print_json(_summary_json(summary))
        return
    for summary in listed:
        print_line(summary)
    if not listed:
        click.echo("none", err=True)
    elif len(listed) == limit:
        click.echo(f"the first {limit}; --limit shows more", err=True)


@click.command(cls=CeleryCommand)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@tell_errors
def stats(as_json: bool) -> None:
    """Show what waits, what is overdue or parked, and within which time an event is settled."""
    found = collect(table(), redis())
    if as_json:
        _print_json(found)
    else:
        click.echo("\n".join(_describe_stats(found)))


def _describe_stats(found: Mapping[str, Any]) -> Iterator[str]:
    yield "waiting in queues"
    for name, length in found["backlog"].items():
        wait = f", the next for {found['waitSeconds'][name]:.0f} s" if length else ""
        yield f"  {name:<18}  {length}{wait}"
    overdue = f", by up to {found['oldestOverdueSeconds']} s" if found["overdue"] else ""
    yield "claims"
    yield f"  being worked on     {found['processing']}"
    yield f"  to be tried again   {found['due'] - found['processing']}"
    yield f"  overdue             {found['overdue']}{overdue}"
    yield "sinks"
    for name, sink in found["sinks"].items():
        more = {
            "open": f", next probe in {sink['probeInSeconds']:.0f} s",
            "closed": f"; {sink['failures']} failures in a row",  # not counted otherwise
        }.get(sink["state"], "")
        yield (
            f"  {name:<18}  {_paint(sink['state'])}{more}; {sink['parked']} parked; "
            f"opened {sink['opened']} times"
        )
    yield "the last hour"
    yield f"  events settled      {found['throughput']['lastHour']}"
    for name, lag in found["lagSeconds"].items():
        yield f"  lag, {name}            " + ("–" if lag is None else f"up to {lag:g} s")
    yield f"an accepted event is settled within {found['settledWithinSeconds']} s"
    yield "  (docs/reliability.md; time in the queues, or with a part away, not counted)"


@click.group()
def audit() -> None:
    """Look at audit records, and prove that none was changed."""


@audit.command(name="show", cls=CeleryCommand)
@click.argument("key", metavar="ID")
@tell_errors
def show_audit(key: str) -> None:
    """Print the audit records of one event, oldest first, one JSON object a line."""
    for record in _get(key).audit:
        _print_json(record)


@audit.command(name="verify", cls=CeleryCommand)
@click.argument("keys", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every event that is kept.")
@tell_errors
def verify_audit(keys: Sequence[str], every: bool) -> None:
    """Compute the hashes of audit records anew. Exits 1 and names each event whose chain breaks."""
    if bool(keys) == every:
        raise click.UsageError("give one or more IDs, or --all")
    checked = broken = 0
    for key in (summary.id for summary in table().received()) if every else keys:
        problems = _problems_of(key, every=every)
        checked += 1
        broken += bool(problems)
        for problem in problems:
            click.echo(f"{key}: {problem}")
        if checked % 1000 == 0 and sys.stderr.isatty():
            click.echo(f"\r{checked} checked, {broken} broken", nl=False, err=True)
    click.echo(f"{checked} checked, {broken} broken", err=True)
    if broken:
        raise SystemExit(1)


def _get(key: str) -> Claim:
    claim = table().get(key)
    if claim is None:
        raise click.ClickException(f"no claim of {key}: it never came, or is past its retention")
    return claim


def _problems_of(key: str, *, every: bool) -> list[str]:
    """Verify one event; of all, one may go away between the index and its reading."""
    try:
        claim = table().get(key) if every else _get(key)
    except UnknownSchemaError as error:
        return [str(error)]
    return claim.problems() if claim else []


def _due() -> Iterator[Summary]:
    """What has something left to do. A claim may settle between the index and its reading."""
    for due in sorted(table().due(until=END_OF_TIME)):
        claim = table().get(due.key)
        if claim and claim.due_at is not None:
            yield claim.summary()


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def _summary_json(summary: Summary) -> dict[str, Any]:
    return {
        "eventId": summary.id,
        "interactionId": summary.interaction_id,
        "eventType": summary.event_type,
        "status": summary.status.value,
        "receivedAt": summary.received_at,
        "deliveries": {sink: d.to_json() for sink, d in summary.deliveries.items()},
    }


def print_line(summary: Summary) -> None:
    """Print one event as a line of a list."""
    sinks = undelivered(summary.deliveries)
    lacking = f"not {sinks[0]}" if len(sinks) == 1 else f"not {len(sinks)} sinks" if sinks else ""
    received = summary.received_at[5:19].replace("T", " ")
    kind = summary.event_type or "–"
    status = _paint(summary.status, 15)
    click.echo(f"{received}  {status}  {kind:<9}  {printable(summary.id)}  {lacking}".rstrip())


def _describe(claim: Claim) -> Iterator[str]:
    shown = claim.to_json()
    lag = f", {shown['lagMs']} ms later" if shown["lagMs"] is not None else ""
    yield f"{claim.id}  {_paint(claim.status)}"
    interaction = printable(claim.interaction_id or "–")
    yield f"  interaction  {interaction}, {claim.event_type or 'of no known type'}"
    yield f"  received     {claim.received_at}"
    yield f"  settled      {claim.processed_at or 'not yet'}{lag}"
    if shown["dueAt"]:
        yield f"  due          {shown['dueAt']}"
    yield f"  version      {claim.version}"
    if claim.deliveries:
        yield "deliveries"
    for sink, delivery in claim.deliveries.items():
        yield from _describe_delivery(sink, delivery)
    yield "audit" + ("" if claim.audit else ": nothing yet")
    for record in claim.audit:
        yield (
            f"  {record['revision']}  {record['processedAt']}  {_paint(record['status'], 15)}"
            f"  {record['lineageHash'][:12]}…"
            + (f"  by {printable(record['actor'])}" if record.get("actor") else "")
        )
        for error in record.get("validationErrors", ()):
            yield f"     {error['field']}: {error['message']}"
        for note in record.get("notes", ()):
            yield f"     {note}"
    problems = claim.problems()
    if claim.audit:
        yield (
            click.style("  the chain breaks: " + "; ".join(problems), fg="red")
            if problems
            else ("  the chain holds")
        )


def _describe_delivery(sink: str, delivery: Delivery) -> Iterator[str]:
    attempts = f"{delivery.attempts} attempt{'' if delivery.attempts == 1 else 's'}"
    line = f"  {sink:<11}  {_paint(delivery.outcome, 9)}  {attempts:<11}  {delivery.at or ''}"
    yield line.rstrip()
    if delivery.error:
        yield f"               {printable(delivery.error)}"
    for call in delivery.calls:
        yield f"    {call.begun}  {printable(str(call))}"


def printable(text: str) -> str:
    """Take out what would steer the terminal: ids come from outside."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
