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
from tasks.recovery.dead_letters import DeadLetter, DeadLetters, IngestClient, SubmitResult, connect
from tasks.settings import settings


@click.command(cls=CeleryCommand, name="dead-letters")
@click.option("--queue", metavar="URL", help="The SQS queue; DEAD_LETTERS_URL by default.")
@click.option("--ingest", metavar="URL", help="Where events are posted; INGEST_URL by default.")
@rate_option
@click.option("--dry-run", is_flag=True, help="Only list what is in the queue.")
def dead_letters(*, queue: str | None, ingest: str | None, rate: float, dry_run: bool) -> None:
    """Move events from EventBridge's dead-letter queue to ingest.

    Each is posted with the first of INGEST_API_KEYS, and deleted from the queue once ingest has
    it. A message that is no event, or is ignored or refused, stays in the queue and is printed. An
    interrupted run can be repeated: an event that ingest has already is a duplicate.
    """
    queue = queue or settings().dead_letters_url
    if not queue:
        raise click.UsageError("no queue: give --queue or set DEAD_LETTERS_URL")
    try:
        with connect(settings(), queue) as messages:
            if dry_run:
                _list(messages)
            elif _redrive(messages, _ingest_client(ingest), rate):
                raise SystemExit(1)
    except IngestError as error:
        raise click.ClickException(str(error)) from error
    except ClientError as error:
        raise click.ClickException(f"SQS: {error.response['Error']['Code']}") from error
    except BotoCoreError as error:
        raise click.ClickException(f"SQS: {error}") from error


def _ingest_client(url: str | None) -> IngestClient:
    url = url or settings().ingest_url
    keys = settings().ingest_api_keys
    if not url:
        raise click.UsageError("no URL of ingest: give --ingest or set INGEST_URL")
    if not keys:
        raise click.UsageError("no API key: set INGEST_API_KEYS")
    return IngestClient(make_session(), url, keys[0].decode())


def _list(messages: DeadLetters) -> None:
    count = 0
    for message in messages:
        click.echo(_describe(message))
        count += 1
    click.echo(f"{count} in the queue", err=True)


def _redrive(messages: DeadLetters, ingest: IngestClient, rate: float) -> int:
    """Submit the messages, at a limited rate; return how many stay in the queue."""
    results: Counter[SubmitResult] = Counter()
    total = f"about {len(messages)}"
    try:
        for message in with_progress(messages, rate, total):
            result, reason = ingest.submit(message)
            results[result] += 1
            if result is SubmitResult.ACCEPTED:
                messages.delete(message)
            else:
                text = f"{result}: {printable(reason)}" if reason else result
                click.echo(f"{_describe(message)}  {text}")
    finally:
        summary = ", ".join(f"{count} {result}" for result, count in sorted(results.items()))
        click.echo(summary or "nothing in the queue", err=True)
    return results.total() - results[SubmitResult.ACCEPTED]


def _describe(message: DeadLetter) -> str:
    """Describe a message in one line: time, event, reason; no data of the event."""
    sent = to_rfc3339(datetime.fromtimestamp(message.sent_at, UTC))[:19].replace("T", " ")
    attributes = message.attributes
    reason = [attributes.get(name, "") for name in ("ERROR_CODE", "EXHAUSTED_RETRY_CONDITION")]
    if retries := attributes.get("RETRY_ATTEMPTS"):
        reason.append(f"after {retries} retries")
    name = message.event_id or f"message {message.message_id}"
    return printable(f"{sent}  {name}  {' '.join(filter(None, reason))}").rstrip()
