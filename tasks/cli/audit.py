"""``celery -A tasks audit …``."""

import sys
from collections.abc import Sequence

import click
from celery.bin.base import CeleryCommand

from tasks.claims.audit import verify_claim
from tasks.claims.queries import get_or_raise
from tasks.cli.output import handle_errors, print_json
from tasks.errors import UnknownSchemaError
from tasks.runtime import claims as table


@click.group()
def audit() -> None:
    """Look at audit records, and prove that none was changed."""


@audit.command(name="show", cls=CeleryCommand)
@click.argument("key", metavar="ID")
@handle_errors
def show_audit(key: str) -> None:
    """Print the audit records of one event, oldest first, one JSON object per line."""
    for record in get_or_raise(table(), key).audit:
        print_json(record)


@audit.command(name="verify", cls=CeleryCommand)
@click.argument("keys", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every event that is kept.")
@handle_errors
def verify_audit(keys: Sequence[str], every: bool) -> None:
    """Compute the hashes of audit records again. Exits 1 and names each event that is broken."""
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


def _problems_of(key: str, *, every: bool) -> list[str]:
    """Verify one event; with --all, one may be deleted between the index and its reading."""
    try:
        claim = table().get(key) if every else get_or_raise(table(), key)
    except UnknownSchemaError as error:
        return [str(error)]
    return verify_claim(claim) if claim else []
