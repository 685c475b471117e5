"""``celery -A tasks dead-letters``."""

from collections import Counter
from datetime import UTC, datetime

import click
from botocore.exceptions import BotoCoreError, ClientError
from celery.bin.base import CeleryCommand

from tasks.cli.options import rate_option, with_progress
from tasks.cli.output import printable
from tasks.clock import to_rfc3339
from tasks.delivery.http import make_session
from tasks.errors import IngestError
from tasks.recovery.dead_letters import DeadLetter, DeadLetters, Ingest, SubmitResult, connect
from tasks.settings import settings


@click.command(cls=CeleryCommand, name="dead-letters")
@click.option("--queue", metavar="URL", help="The SQS queue; else that of DEAD_LETTERS_URL.")
@click.option("--ingest", metavar="URL", help="Where ingest takes events; else INGEST_URL.")
@rate_option
@click.option("--dry-run", is_flag=True, help="Only list what is in the queue.")
def dead_letters(*, queue: str | None, ingest: str | None, rate: float, dry_run: bool) -> None:
    """Bring back the events that EventBridge gave up calling ingest with.

    Each goes to ingest, with the first of INGEST_API_KEYS, and leaves the queue once ingest has
    it. What is no event, or is refused, stays there, and is told. Broken off, it can be started
    again: an event that ingest has already is a duplicate.
    """
    queue = queue or settings().dead_letters_url
    if not queue:
        raise click.UsageError("which queue? give --queue or set DEAD_LETTERS_URL")
    try:
        with connect(settings(), queue) as letters:
            if dry_run:
                _list(letters)
            elif _redrive(letters, _ingest(ingest), rate):
                raise SystemExit(1)
    except IngestError as error:
        raise click.ClickException(str(error)) from error
    except ClientError as error:
        raise click.ClickException(f"SQS: {error.response['Error']['Code']}") from error
    except BotoCoreError as error:
        raise click.ClickException(f"SQS: {error}") from error


def _ingest(url: str | None) -> Ingest:
    url = url or settings().ingest_url
    keys = settings().ingest_api_keys
    if not url:
        raise click.UsageError("where is ingest? give --ingest or set INGEST_URL")
    if not keys:
        raise click.UsageError("set INGEST_API_KEYS: ingest asks for one of them")
    return Ingest(make_session(), url, keys[0].decode())


def _list(letters: DeadLetters) -> None:
    count = 0
    for count, letter in enumerate(letters, start=1):  # noqa: B007 - the last count is what counts
        click.echo(_describe(letter))
    click.echo(f"{count} in the queue", err=True)


def _redrive(letters: DeadLetters, ingest: Ingest, rate: float) -> int:
    """Bring events back, paced; return how many messages stay in the queue."""
    fates: Counter[SubmitResult] = Counter()
    about = f"about {len(letters)}"
    try:
        for letter in with_progress(letters, rate, about):
            fate, why = ingest.take(letter)
            fates[fate] += 1
            if fate is SubmitResult.ACCEPTED:
                letters.delete(letter)
            else:
                click.echo(f"{_describe(letter)}  {fate}{': ' if why else ''}{printable(why)}")
    finally:
        said = ", ".join(f"{count} {fate}" for fate, count in sorted(fates.items()))
        click.echo(said or "nothing in the queue", err=True)
    return fates.total() - fates[SubmitResult.ACCEPTED]


def _describe(letter: DeadLetter) -> str:
    """Tell of a message in one line: when, which event, why; nothing of the event itself."""
    sent = to_rfc3339(datetime.fromtimestamp(letter.sent_at, UTC))[:19].replace("T", " ")
    why = [letter.why.get(name, "") for name in ("ERROR_CODE", "EXHAUSTED_RETRY_CONDITION")]
    tries = letter.why.get("RETRY_ATTEMPTS")
    because = " ".join([*filter(None, why), *([f"after {tries} retries"] if tries else [])])
    name = letter.event_id or f"message {letter.message_id}"
    return printable(f"{sent}  {name}  {because}").rstrip()
