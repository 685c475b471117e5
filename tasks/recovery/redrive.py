"""Redrive: deliver again what did not get through, because an operator asks for it.

The claim is reopened before anything is published, by a conditional write: of several redrives, one
succeeds. If this process dies in between, a sweep finishes the event.
"""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import TypeVar
from uuid import uuid4

from tasks.claims import Claim, Claims, Status, Summary
from tasks.claims.intake import read_event
from tasks.claims.outcomes import undelivered
from tasks.claims.queries import get_or_raise
from tasks.clock import from_rfc3339
from tasks.dispatch import event_of
from tasks.errors import ClaimInProgressError, ClaimNotFoundError, InvalidEventError
from tasks.events import InteractionEvent, MetadataRules
from tasks.recovery.takeover import go_on
from tasks.sinks import SINKS

T = TypeVar("T")


class RedriveAnswer(StrEnum):
    """What came of the redrive of one event."""

    REDRIVEN = "redriven"  # its deliveries are published
    REDRIVABLE = "would be redriven"  # in a dry run
    NOTHING_TO_DO = "nothing to do"  # every sink in question has it
    IN_PROGRESS = "under way"  # another dispatch of it is in progress
    STILL_INVALID = "still invalid"  # the present rules refuse it, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which events a redrive is for: those that some sink does not have and that match all of this.

    ``since`` and ``until`` bound the time of receipt; ``error`` is a part of the error of a missing
    delivery, to ``sink`` if that is given.
    """

    sink: str | None = None
    status: Status | None = None
    since: datetime | None = None
    until: datetime | None = None
    error: str | None = None

    def among(self, claims: Claims) -> Iterator[Summary]:
        """Yield the events that match, oldest first."""
        for summary in claims.received(self.since, self.until):
            if summary.status is not Status.PROCESSING and self._matches(summary):
                yield summary

    def _matches(self, summary: Summary) -> bool:
        received = from_rfc3339(summary.received_at)
        missing = undelivered(summary.deliveries)
        concerned = [sink for sink in missing if self.sink in (None, sink)]
        errors = [summary.deliveries[sink].error or "" for sink in concerned]
        return (
            (bool(missing) or summary.is_invalid)
            and (self.sink is None or self.sink in missing)
            and (self.status is None or self.status is summary.status)
            and (self.since is None or received >= self.since)
            and (self.until is None or received <= self.until)
            and (self.error is None or any(self.error in error for error in errors))
        )


def redrive_event(
    claims: Claims,
    rules: MetadataRules,
    key: str,
    *,
    actor: str,
    sink: str | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> RedriveAnswer:
    """Deliver an event again to every sink that does not have it, or to ``sink`` alone.

    ``force`` delivers also to sinks that have it. ``actor`` goes into the audit record. ``dry_run``
    only returns what would come of it.

    Raises:
        ClaimNotFoundError: no such claim, or the event does not go to ``sink``.
        StoreError: DynamoDB does not answer.
    """
    claim = get_or_raise(claims, key)
    if sink and sink not in claim.deliveries:
        raise ClaimNotFoundError(f"{key} does not go to {sink}")
    if claim.status is Status.PROCESSING:
        return RedriveAnswer.IN_PROGRESS
    holder = f"{key}.redrive.{uuid4().hex[:8]}"
    event: InteractionEvent | None
    if claim.is_invalid:
        new, event = read_event(rules, key, envelope_of(claim), claim.received_at, holder)
        reopen = partial(claims.replace_invalid, claim, replace(new, actor=actor))
    elif targets := _targets(claim, sink, force=force):
        event = None
        with suppress(InvalidEventError):  # it was valid for another release
            event = event_of(claim)
        reopen = partial(claims.reopen, claim, targets, actor=actor, holder=holder)
    else:
        return RedriveAnswer.NOTHING_TO_DO
    if event is None:
        return RedriveAnswer.STILL_INVALID
    if dry_run:
        return RedriveAnswer.REDRIVABLE
    try:
        go_on(claims, reopen(), event)
    except ClaimInProgressError:
        return RedriveAnswer.IN_PROGRESS
    return RedriveAnswer.REDRIVEN


def _targets(claim: Claim, sink: str | None, *, force: bool) -> list[str]:
    concerned = [sink] if sink else [name for name in claim.deliveries if name in SINKS]
    return [name for name in concerned if force or name in claim.undelivered]


def envelope_of(claim: Claim) -> object:
    """Return the envelope as it was received: with the replay's name, which the payload omits."""
    try:
        envelope = json.loads(claim.payload)
    except ValueError:  # it was too large to be kept
        return None
    _, _, replay_name = claim.id.partition("@")
    if replay_name and isinstance(envelope, dict):
        envelope["replay-name"] = replay_name
    return envelope


def throttle(items: Iterable[T], rate: float) -> Iterator[T]:
    """Yield items at most ``rate`` a second; the time that the caller spends on them counts."""
    begun = time.monotonic()
    for number, item in enumerate(items):
        # The rate is that of the whole: after a slow item, the next ones come at once.
        time.sleep(max(0.0, begun + number / rate - time.monotonic()))
        yield item
