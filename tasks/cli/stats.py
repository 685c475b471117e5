"""``celery -A tasks stats``."""

from collections.abc import Iterator, Mapping
from typing import Any

import click
from celery.bin.base import CeleryCommand

from tasks.cli.output import handle_errors, paint, print_json
from tasks.observability.stats import collect
from tasks.runtime import claims as table
from tasks.runtime import redis


@click.command(cls=CeleryCommand)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@handle_errors
def stats(as_json: bool) -> None:
    """Show what waits, is overdue or parked, and within which time an event is settled."""
    found = collect(table(), redis())
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(_describe_stats(found)))


def _describe_stats(found: Mapping[str, Any]) -> Iterator[str]:
    yield "waiting in queues"
    for name, length in found["backlog"].items():
        wait = f", the next for {found['waitSeconds'][name]:.0f} s" if length else ""
        yield f"  {name:<18}  {length}{wait}"
    overdue = f", by up to {found['oldestOverdueSeconds']} s" if found["overdue"] else ""
    yield "claims"
    yield f"  in progress         {found['processing']}"
    yield f"  waiting for a retry {found['due'] - found['processing']}"
    yield f"  overdue             {found['overdue']}{overdue}"
    yield "sinks"
    for name, sink in found["sinks"].items():
        more = {
            "open": f", next probe in {sink['probeInSeconds']:.0f} s",
            "closed": f"; {sink['failures']} failures in a row",  # not counted otherwise
        }.get(sink["state"], "")
        yield (
            f"  {name:<18}  {paint(sink['state'])}{more}; {sink['parked']} parked; "
            f"opened {sink['opened']} times"
        )
    yield "the last hour"
    yield f"  events settled      {found['throughput']['lastHour']}"
    for name, lag in found["lagSeconds"].items():
        yield f"  lag, {name}            " + ("–" if lag is None else f"up to {lag:g} s")
    yield f"an accepted event is settled within {found['settledWithinSeconds']} s"
    yield "  (docs/reliability.md; without time in queues, or while Redis or DynamoDB is away)"
