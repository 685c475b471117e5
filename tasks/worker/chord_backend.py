"""The result backend of chords: ``settle`` runs once every delivery has *an* outcome.

Celery runs a chord's body only when its whole header succeeded. Here the body runs when the whole
header has ended: a failed or revoked delivery stays FAILURE or REVOKED for Flower, and its part
counts all the same.

The parts of a chord are a Redis hash, task id → report, so a part that ends twice counts once. The
part that completes the hash publishes the body. That may happen twice, if the last part is
redelivered: settling twice is harmless (``tasks.claims.outcomes``), not settling is not.
"""

import json
import logging
from functools import cached_property
from typing import Any

from celery import Celery
from celery.backends.redis import RedisBackend
from celery.canvas import Signature

from tasks.claims import Outcome
from tasks.delivery.report import report_of
from tasks.errors import ParkedError

#: Seconds that a complete chord is kept, in case its last part is redelivered.
KEEP_COMPLETE = 300

# KEYS: parts. ARGV: task id, report, 1 if it may replace an earlier report of the same task,
# size of the header, seconds to keep, seconds to keep once complete.
_COUNT_PART_SCRIPT = """
redis.call(ARGV[3] == '1' and 'HSET' or 'HSETNX', KEYS[1], ARGV[1], ARGV[2])
local reports = redis.call('HVALS', KEYS[1])
local complete = #reports >= tonumber(ARGV[4])
if complete or #reports == 1 then redis.call('EXPIRE', KEYS[1], ARGV[complete and 6 or 5]) end
return complete and reports or {}
"""

_log = logging.getLogger(__name__)


class SettlingBackend(RedisBackend):
    """Redis result backend whose chords settle.

    The header's tasks return ``outcomes.Report`` as JSON where they succeed. The body is called
    with its own arguments and ``reports``, a list of theirs; its signature has a header
    ``chord_size``.
    """

    app: Celery
    expires: int
    chord_expires: int | None

    @cached_property
    def _count_part(self) -> Any:
        return self.client.register_script(_COUNT_PART_SCRIPT)

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """Do nothing: the body's message carries all that a chord needs."""

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Do nothing: as ``apply_chord``."""

    def add_pending_result(self, result: Any, *_args: Any, **_kwargs: Any) -> Any:
        """Do nothing: a group would subscribe to each result here, and nothing reads results."""
        return result

    def mark_as_failure(self, task_id: str, exc: Any, *args: Any, **kwargs: Any) -> None:
        """Store a failure, but not that of a parked delivery: there may be very many."""
        if isinstance(exc, ParkedError):
            kwargs["store_result"] = False
        super().mark_as_failure(task_id, exc, *args, **kwargs)

    def on_chord_part_return(
        self, request: Any, state: str, result: Any, propagate: bool | None = None, **kwargs: Any
    ) -> None:
        """Count one delivery's end; the last one publishes the chord's body."""
        report = report_of(request, state, result)
        body: Signature[Any] = Signature.from_dict(request.chord, app=self.app)
        keys = [self.get_key_for_group(request.group, ".parts")]
        arguments = [
            request.id,
            json.dumps(report.to_json()),
            int(report.outcome is Outcome.DELIVERED),
            body.options["headers"]["chord_size"],
            self.chord_expires or self.expires,
            KEEP_COMPLETE,
        ]
        # A part that is not counted leaves the chord incomplete until a sweep, so try for a while.
        reports = self.ensure(self._count_part, (keys, arguments))
        if reports:
            body.apply_async(kwargs={"reports": [json.loads(text) for text in reports]})

    def chord_error_from_stack(self, callback: Signature, exc: Any = None) -> Any:
        """Log an error that left a chord incomplete, where Celery would fail its body.

        A sweep takes the claim over and dispatches it again.
        """
        _log.error("chord of %s is incomplete: %r", callback.id, exc)


def join_chord(request: Any, body: Signature[Any], group: str) -> None:
    """Make a running task the only part of a chord: its end publishes ``body``.

    That includes an attempt that fails, or whose process is killed before it could publish.
    """
    request.chord = body
    request.group = group
