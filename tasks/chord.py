"""The result backend of our chords: ``settle`` runs once every delivery has *an* outcome.

Celery runs a chord's body only when its whole header succeeded. Ours is ``Promise.allSettled``: a
failed or revoked delivery stays FAILURE or REVOKED for Flower, and counts as a part all the same.

The parts of a chord are a Redis hash, task id → report, so a part that is counted twice is
counted once. Whoever finds the hash complete publishes the body. That may happen twice (a last
part that is redelivered); settling twice is harmless (``outcomes``), settling never would not be.
"""

import json
import logging
from functools import cached_property
from typing import Any

from celery import Celery, states
from celery.backends.redis import RedisBackend
from celery.canvas import Signature

from tasks.clock import now, to_rfc3339
from tasks.errors import (
    ContextMissingError,
    DeliveryError,
    ParkedError,
    TransientDeliveryError,
)
from tasks.outcomes import Call, Outcome, Report, calls_from

#: The header of a delivery's message that lists the calls it has made.
CALLS = "calls"

#: Seconds that a complete chord is kept, in case its last part is redelivered.
KEEP_COMPLETE = 300

# KEYS: parts. ARGV: task id, report, 1 if it may replace an earlier report of the same task,
# size of the header, seconds to keep, seconds to keep once complete.
_COUNT_PART = """
redis.call(ARGV[3] == '1' and 'HSET' or 'HSETNX', KEYS[1], ARGV[1], ARGV[2])
local reports = redis.call('HVALS', KEYS[1])
local complete = #reports >= tonumber(ARGV[4])
if complete or #reports == 1 then redis.call('EXPIRE', KEYS[1], ARGV[complete and 6 or 5]) end
return complete and reports or {}
"""

_log = logging.getLogger(__name__)


class SettlingBackend(RedisBackend):
    """Redis result backend whose chords settle.

    The header's tasks return ``outcomes.Report`` as JSON. The body is called with its own
    arguments and ``reports``, a list of theirs; its signature has a
    header ``chord_size``.
    """

    app: Celery
    expires: int
    chord_expires: int | None

    @cached_property
    def _count_part(self) -> Any:
        return self.client.register_script(_COUNT_PART)

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """Do nothing: all that a chord needs rides along with its body."""

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Do nothing: as ``apply_chord``."""

    def add_pending_result(self, result: Any, *_args: Any, **_kwargs: Any) -> Any:
        """Do nothing: a group would subscribe to each result here, and nobody reads results."""
        return result

    def mark_as_failure(self, task_id: str, exc: Any, *args: Any, **kwargs: Any) -> None:
        """Note a failure; but of what is parked, of which there may be very many, keep nothing."""
        if isinstance(exc, ParkedError):
            kwargs["store_result"] = False
        super().mark_as_failure(task_id, exc, *args, **kwargs)

    def on_chord_part_return(
        self, request: Any, state: str, result: Any, propagate: bool | None = None, **kwargs: Any
    ) -> None:
        """Count one delivery's end; the last one publishes the chord's body."""
        report = report_of(request, state, result)
        body: Signature[Any] = Signature.from_dict(request.chord, app=self.app)
        # A part that cannot be counted strands its chord until the sweep, so try for a while.
        reports = self.ensure(
            self._count_part,
            (
                [self.get_key_for_group(request.group, ".parts")],
                [
                    request.id,
                    json.dumps(report.to_json()),
                    int(report.outcome is Outcome.DELIVERED),
                    body.options["headers"]["chord_size"],
                    self.chord_expires or self.expires,
                    KEEP_COMPLETE,
                ],
            ),
        )
        if reports:
            body.apply_async(kwargs={"reports": [json.loads(text) for text in reports]})

    # Celery's own way of failing a body because of its header: never, here.
    def chord_error_from_stack(self, callback: Signature, exc: Any = None) -> Any:
        """Report an error that left a chord without its body; the sweep will finish the event."""
        _log.error("chord of %s is stranded: %r", callback.id, exc)


def report_of(request: Any, state: str, result: Any) -> Report:
    """Tell how a delivery task ended, from what Celery knows of it."""
    if state == states.SUCCESS:
        return Report.from_json(result)
    parked = isinstance(result, ParkedError)
    called = state == states.FAILURE and not isinstance(result, ParkedError | ContextMissingError)
    return Report(
        sink=str(request.task).removeprefix("deliver."),
        outcome=_outcome(state, parked),
        attempts=int(request.retries or 0) + called,
        at=to_rfc3339(now()),
        error=_reason(state, result),
        transient=state == states.FAILURE and _may_pass(result),
        response=getattr(result, "response", None),
        calls=calls_of(request),
    )


def calls_of(request: Any) -> tuple[Call, ...]:
    """Return the calls that a delivery task has noted; they ride along in its message's headers."""
    return calls_from((request.headers or {}).get(CALLS, ()))


def _outcome(state: str, parked: bool) -> Outcome:
    if state == states.REVOKED:
        return Outcome.REVOKED
    return Outcome.PARKED if parked else Outcome.FAILED


def _may_pass(error: Any) -> bool:
    """Tell whether it may get through by itself later: all may, but what a sink refused for good.

    Any other error says nothing of the sink: DynamoDB or Redis was away, a time limit struck, or
    there is a mistake of ours that the next release mends.
    """
    refused = isinstance(error, DeliveryError)
    return not refused or isinstance(error, ParkedError | TransientDeliveryError)


def _reason(state: str, result: Any) -> str:
    if state == states.REVOKED:
        return "revoked by an operator"
    # Only our own errors are known to hold nothing of the event.
    return str(result) if isinstance(result, DeliveryError) else type(result).__name__
