"""``celery -A tasks redrive …``."""

import getpass
import math
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from celery.bin.base import CeleryCommand

from tasks.claims import Status
from tasks.cli.options import rate_option, with_progress
from tasks.cli.output import handle_errors, print_json, print_line
from tasks.clock import from_age, from_rfc3339
from tasks.errors import ClaimNotFoundError
from tasks.recovery.redrive import RedriveAnswer, Selection, redrive_event
from tasks.runtime import claims as table
from tasks.runtime import rules
from tasks.sinks import SINKS


class _Moment(click.ParamType[datetime]):
    """A time, or an age."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        try:
            return from_age(value) or from_rfc3339(value)
        except (ValueError, OverflowError):
            self.fail("not a time such as 2026-01-31T12:00:00Z, nor an age such as 90m or 2d")


@click.command(cls=CeleryCommand)
@click.argument("keys", metavar="[ID]...", nargs=-1)
@click.option("--sink", type=click.Choice(list(SINKS)), help="Only to this sink.")
@click.option("--status", type=click.Choice(["partial_failure", "failed"]), help="Only these.")
@click.option("--since", type=_Moment(), help="Received at this time or later; 2h means ago.")
@click.option("--until", type=_Moment(), help="Received at this time or before.")
@click.option("--error", metavar="TEXT", help="With this text in a delivery's error.")
@rate_option
@click.option("--force", is_flag=True, help="Also to sinks that have it; needs IDs; is audited.")
@click.option("--dry-run", is_flag=True, help="Only list what would be delivered again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@handle_errors
def redrive(
    *,
    keys: Sequence[str],
    sink: str | None,
    status: str | None,
    since: datetime | None,
    until: datetime | None,
    error: str | None,
    rate: float,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Deliver again what did not get through: the IDs, or all that the options select.

    A sink that has an event does not get it again. An invalid event is validated again, by the
    present rules. An interrupted redrive can be started again: nothing is done twice.
    """
    filters = (status, since, until, error)
    if keys and any(filters):
        raise click.UsageError("give IDs, or --status, --since, --until and --error, not both")
    if not keys and not any((sink, *filters)):
        raise click.UsageError("give one or more IDs, or options that select events")
    if force and not keys:
        raise click.UsageError("--force needs IDs")
    selection = Selection(
        sink=sink, status=Status(status) if status else None, since=since, until=until, error=error
    )
    if dry_run and not keys:
        _list(selection, as_json=as_json)
        return
    chosen = keys or [summary.id for summary in selection.among(table())]
    options = {"actor": _actor(), "sink": sink, "force": force, "dry_run": dry_run}
    answers = _run(chosen, math.inf if dry_run else rate, options, as_json=as_json)
    summary = ", ".join(f"{count} {answer}" for answer, count in sorted(answers.items()))
    click.echo(summary or "nothing to redrive", err=True)
    if answers["unknown"]:
        raise SystemExit(1)


def _list(selection: Selection, *, as_json: bool) -> None:
    count = 0
    for summary in selection.among(table()):
        count += 1
        if as_json:
            print_json({"eventId": summary.id, "answer": RedriveAnswer.REDRIVABLE})
        else:
            print_line(summary)
    click.echo(f"{count} {RedriveAnswer.REDRIVABLE}", err=True)


def _run(
    keys: Sequence[str], rate: float, options: Mapping[str, Any], *, as_json: bool
) -> Counter[str]:
    """Redrive these at ``rate`` a second; count the answers."""
    answers: Counter[str] = Counter()
    for key in with_progress(keys, rate, str(len(keys))):
        try:
            answer: str = redrive_event(table(), rules(), key, **options)
            shown = answer != RedriveAnswer.REDRIVEN or len(keys) <= 10
        except ClaimNotFoundError as error:
            answer, shown = "unknown", False
            click.echo(str(error), err=True)
        answers[answer] += 1
        if as_json:
            print_json({"eventId": key, "answer": answer})
        elif shown:
            click.echo(f"{key}: {answer}")
    return answers


def _actor() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a user that has no name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
