"""Bulk redrives: select events, preview, then deliver them again at a limited rate, with progress.

A run is kept in Redis for a day, and each event is removed from its list once it is done. So a
reload shows the same, and a run that the end of Flower interrupted can be resumed. Redriving an
event twice is safe (``tasks/recovery/redrive.py``). Only one run is active at a time.
"""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from secrets import token_hex
from typing import Any

from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError
from tornado.web import HTTPError

from dashboard.formatting import duration
from dashboard.pages.base import Page, in_thread
from dashboard.pages.event_list import Filter
from tasks.claims import Claims, Summary
from tasks.claims.outcomes import undelivered
from tasks.clock import now, to_rfc3339
from tasks.errors import ClaimNotFoundError, StoreError
from tasks.events import MetadataRules
from tasks.recovery.redrive import redrive_event, throttle
from tasks.runtime import claims as table
from tasks.runtime import redis, rules
from tasks.sinks import SINKS

#: Events in a run, at most.
MAX_EVENTS = 10_000

#: How long selecting them may take, in seconds.
SELECTION_TIMEOUT = 20.0

#: Events per second, at most.
MAX_RATE = 100.0

#: Counted in place of a sink for invalid events, which are validated again.
INVALID = "the sinks for their type, if valid now"

#: How long a run is kept, in seconds.
_TTL = 86_400

#: How long a run counts as running without a sign of life, in seconds.
_LEASE = 60

#: Attempts per event while DynamoDB does not answer, a second apart and longer.
_MAX_ATTEMPTS = 5

#: The Redis key of the run that is active.
_RUNNING = "redrive.running"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A bulk redrive, as it was selected and started; kept in Redis as JSON."""

    id: str
    chosen_by: str
    chosen_at: str  # RFC 3339
    sink: str | None  # the only one to deliver to
    count: int
    complete: bool  # False if MAX_EVENTS or SELECTION_TIMEOUT cut it short
    lacking: Mapping[str, int]  # number of events by sink that lacks them
    first: Sequence[str]  # ids to show
    started_by: str | None = None
    rate: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of a run."""

    state: str  # chosen, running, stopped, interrupted or done
    left: int
    answers: Mapping[str, int]
    reason: str | None = None  # why it was stopped

    @property
    def done(self) -> int:
        """The number of events that are done."""
        return sum(self.answers.values())


class Runs:
    """The runs of the last day, in Redis.

    Every method raises ``RedisError`` if Redis does not answer.
    """

    def __init__(self, redis: Redis) -> None:
        """Use ``redis``, a client that decodes responses."""
        self._redis = redis

    def add(self, run: Run, keys: Sequence[str]) -> None:
        """Store a new run."""
        pipe = self._redis.pipeline()
        pipe.set(_key(run.id), json.dumps(asdict(run)), ex=_TTL)
        if keys:
            pipe.rpush(_key(run.id, "keys"), *keys)
            pipe.expire(_key(run.id, "keys"), _TTL)
        pipe.execute()

    def get(self, run_id: str) -> Run | None:
        """Return a run; None if there is none, or it is older than a day."""
        text = self._redis.get(_key(run_id))
        return Run(**json.loads(text)) if text else None

    def progress(self, run: Run) -> Progress:
        """Return the progress of a run."""
        pipe = self._redis.pipeline()
        pipe.llen(_key(run.id, "keys"))
        pipe.hgetall(_key(run.id, "answers"))
        pipe.get(_key(run.id, "stop"))
        pipe.get(_RUNNING)
        left, answers, reason, running = pipe.execute()
        if run.started_by is None:
            state = "chosen"
        elif not left:
            state = "done"
        elif reason:
            state = "stopped"
        else:
            state = "running" if running == run.id else "interrupted"
        counted = {answer: int(count) for answer, count in answers.items()}
        return Progress(state=state, left=left, answers=counted, reason=reason)

    def start(self, run: Run) -> str | None:
        """Make a run the active one; return the id of the active one if there is one already."""
        if not self._redis.set(_RUNNING, run.id, nx=True, ex=_LEASE):
            running: Any = self._redis.get(_RUNNING)
            return running or self.start(run)
        pipe = self._redis.pipeline()
        pipe.set(_key(run.id), json.dumps(asdict(run)), ex=_TTL)
        pipe.delete(_key(run.id, "stop"))
        pipe.execute()
        return None

    def next(self, run: Run) -> str | None:
        """Renew a run's lease, and return the id of its next event.

        None if none is left, or the run was stopped, or counts as interrupted.
        """
        pipe = self._redis.pipeline()
        pipe.get(_RUNNING)
        pipe.get(_key(run.id, "stop"))
        pipe.lindex(_key(run.id, "keys"), 0)
        pipe.expire(_RUNNING, _LEASE)
        running, reason, key, _ = pipe.execute()
        return None if reason or running != run.id else key

    def note(self, run: Run, key: str, answer: str) -> None:
        """Remove an event from the list and count its answer, unless that has been done."""
        if self._redis.lrem(_key(run.id, "keys"), 1, key):
            pipe = self._redis.pipeline()
            pipe.hincrby(_key(run.id, "answers"), answer, 1)
            pipe.expire(_key(run.id, "answers"), _TTL)
            pipe.execute()

    def stop(self, run: Run, reason: str) -> None:
        """Make a run stop after its current event."""
        self._redis.set(_key(run.id, "stop"), reason, ex=_TTL)

    def end(self, run: Run) -> None:
        """Let another run start."""
        if self._redis.get(_RUNNING) == run.id:
            self._redis.delete(_RUNNING)


def _key(run_id: str, part: str = "") -> str:
    return f"redrive.{run_id}.{part}" if part else f"redrive.{run_id}"


def select(
    found: Iterable[Summary], *, by: str, sink: str | None, timeout: float = SELECTION_TIMEOUT
) -> tuple[Run, list[str]]:
    """Return a new run of these events, and their ids.

    Raises:
        StoreError: DynamoDB does not answer.
    """
    deadline = time.monotonic() + timeout
    keys: list[str] = []
    lacking: Counter[str] = Counter()
    complete = True
    for summary in islice(found, MAX_EVENTS + 1):
        if len(keys) == MAX_EVENTS or time.monotonic() > deadline:
            complete = False
            break
        keys.append(summary.id)
        sinks = [s for s in undelivered(summary.deliveries) if s in SINKS and sink in (None, s)]
        lacking.update(sinks if summary.deliveries else [INVALID])
    run = Run(
        id=token_hex(8),
        chosen_by=by,
        chosen_at=to_rfc3339(now()),
        sink=sink,
        count=len(keys),
        complete=complete,
        lacking=dict(lacking),
        first=keys[:20],
    )
    return run, keys


def work(runs: Runs, run: Run, claims: Claims, rules: MetadataRules) -> None:
    """Redrive the remaining events of a run at its rate, until it is done or stopped."""
    number = 0
    left = iter(lambda: runs.next(run), None)
    try:
        for number, key in enumerate(throttle(left, run.rate), start=1):  # noqa: B007 - for the log
            answer = _redrive(run, key, claims, rules)
            if answer is None:
                runs.stop(run, "DynamoDB did not answer")
                return
            runs.note(run, key, answer)
    except (RedisError, OperationalError) as error:
        _log.error("redrive %s interrupted: %s", run.id, type(error).__name__)
        return
    finally:
        with suppress(RedisError):  # its lease will expire
            runs.end(run)
        _log.info("redrive %s of %s ends after %d events", run.id, run.started_by, number)


def _redrive(run: Run, key: str, claims: Claims, rules: MetadataRules) -> str | None:
    """Redrive one event; return the answer, None if DynamoDB does not answer."""
    for attempt in range(_MAX_ATTEMPTS):
        try:
            return redrive_event(claims, rules, key, actor=str(run.started_by), sink=run.sink).value
        except ClaimNotFoundError:
            return "not found"
        except StoreError:
            time.sleep(attempt + 1)  # in a thread of its own: no request waits for it
    return None


def remaining(run: Run, progress: Progress) -> str:
    """Return how long the rest of a run takes at its rate."""
    return duration(progress.left / run.rate)


class SelectPage(Page):
    """By POST: a new run of the selected events, or of all that match the filter."""

    async def post(self) -> None:
        """Store the run, and redirect to its preview."""
        names = ("status", "sink", "type", "since", "until")
        try:
            wanted = Filter.from_arguments({name: self.text(name) for name in names})
        except ValueError as error:
            raise HTTPError(400, f"The filter is not valid: {error}") from error
        if self.text("scope") == "all":
            found = wanted.to_redrive(table())
        else:
            claims = map(table().get, self.get_arguments("key"))
            found = (claim.summary() for claim in claims if claim)
        run, keys = await in_thread(select, found, by=self.current_user.name, sink=wanted.sink)
        await in_thread(Runs(redis()).add, run, keys)
        self.redirect(self.reverse_url("redrive", run.id), status=303)


class RedrivePage(Page):
    """A run: its preview, then its progress."""

    async def get(self, run_id: str) -> None:
        """Show it."""
        run = await self._run(run_id)
        progress = await in_thread(Runs(redis()).progress, run)
        self.render(
            "bulk_redrive.html",
            run=run,
            progress=progress,
            remaining=remaining(run, progress),
            max_rate=MAX_RATE,
            other_run=self.text("busy"),
        )

    async def post(self, run_id: str) -> None:
        """Start, stop or resume it."""
        runs = Runs(redis())
        run = await self._run(run_id)
        to = self.reverse_url("redrive", run_id)
        if self.text("do") == "stop":
            await in_thread(runs.stop, run, f"{self.current_user.name} stopped it")
        else:
            rate = min(MAX_RATE, max(0.1, self.get_argument("rate", "20", type=float)))
            run = replace(run, started_by=self.current_user.name, rate=rate)
            if active := await in_thread(runs.start, run):
                if active != run_id:  # else it was a second click
                    to += f"?busy={active}"
            else:
                _log.info("%s starts redrive %s of %d events", run.started_by, run.id, run.count)
                arguments = (runs, run, table(), rules())
                threading.Thread(target=work, args=arguments, daemon=True).start()
        self.redirect(to, status=303)

    async def _run(self, run_id: str) -> Run:
        run = await in_thread(Runs(redis()).get, run_id)
        if run is None:
            raise HTTPError(404, "No such redrive. A redrive is kept for a day.")
        return run
