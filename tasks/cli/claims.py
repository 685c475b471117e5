"""``celery -A tasks claims …``."""

from collections.abc import Iterator
from itertools import islice

import click
from celery.bin.base import CeleryCommand

from tasks.claims import Claim, Delivery, Status, Summary
from tasks.claims.audit import verify_claim
from tasks.claims.outcomes import undelivered
from tasks.claims.queries import MAX_TIMESTAMP, get_or_raise
from tasks.cli.output import (
    claim_json,
    handle_errors,
    paint,
    print_json,
    print_line,
    printable,
    summary_json,
)
from tasks.runtime import claims as table
from tasks.sinks import SINKS


@click.group()
def claims() -> None:
    """Look at events: their claims, deliveries and audit records."""


@claims.command(cls=CeleryCommand)
@click.argument("key", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@handle_errors
def show(key: str, as_json: bool) -> None:
    """Show the whole life of one event. ID is its event id, or ID@REPLAY-NAME for a replay."""
    claim = get_or_raise(table(), key)
    if as_json:
        print_json(claim_json(claim))
    else:
        click.echo("\n".join(_describe(claim)))


@claims.command(name="list", cls=CeleryCommand)
@click.option("--status", type=click.Choice([str(s) for s in Status]), help="With this status.")
@click.option("--due", is_flag=True, help="With something pending; the longest due first.")
@click.option("--sink", type=click.Choice(list(SINKS)), help="That this sink does not have.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@handle_errors
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
            print_json(summary_json(summary))
        return
    for summary in listed:
        print_line(summary)
    if not listed:
        click.echo("none", err=True)
    elif len(listed) == limit:
        click.echo(f"the first {limit}; --limit shows more", err=True)


def _due() -> Iterator[Summary]:
    """Yield what has something pending; a claim may settle between the index and its reading."""
    for due in sorted(table().due(until=MAX_TIMESTAMP)):
        claim = table().get(due.key)
        if claim and claim.due_at is not None:
            yield claim.summary()


def _describe(claim: Claim) -> Iterator[str]:
    shown = claim_json(claim)
    lag = f", {shown['lagMs']} ms later" if shown["lagMs"] is not None else ""
    yield f"{claim.id}  {paint(claim.status)}"
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
            f"  {record['revision']}  {record['processedAt']}  {paint(record['status'], 15)}"
            f"  {record['lineageHash'][:12]}…"
            + (f"  by {printable(record['actor'])}" if record.get("actor") else "")
        )
        for error in record.get("validationErrors", ()):
            yield printable(f"     {error['field']}: {error['message']}")
        for note in record.get("notes", ()):
            yield printable(f"     {note}")
    problems = verify_claim(claim)
    if claim.audit:
        yield (
            click.style("  the chain breaks: " + "; ".join(problems), fg="red")
            if problems
            else ("  the chain holds")
        )


def _describe_delivery(sink: str, delivery: Delivery) -> Iterator[str]:
    attempts = f"{delivery.attempts} attempt{'' if delivery.attempts == 1 else 's'}"
    line = f"  {sink:<11}  {paint(delivery.outcome, 9)}  {attempts:<11}  {delivery.at or ''}"
    yield line.rstrip()
    if delivery.error:
        yield f"               {printable(delivery.error)}"
    for call in delivery.calls:
        yield f"    {call.begun}  {printable(str(call))}"
