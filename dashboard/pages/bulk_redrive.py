"""Redrives of many events: chosen, counted, then done at a pace, with progress for who looks.

What there is to do stands in Redis for a day, and an event is taken off the list once it is done,
so a reload shows the same, and what an end of Flower interrupts is gone on with by a click. It is
safe to do an event twice (``tasks/recovery/redrive.py``). One run works at a time.
"""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from secrets import token_hex
from typing import Any

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

#: Events of a run, at most.
MOST = 10_000

#: Seconds that choosing them may take.
SELECTION_TIMEOUT = 20.0

#: Events a second, at most.
FASTEST = 100.0

#: What is counted in the place of a sink for events that are to be read anew.
NOT_VALID = "whoever wants it, if it is valid now"

#: Seconds that a run is kept, and that a silent one counts as running.
_KEPT = 86_400
_SILENCE = 60

#: Times that an event is tried where DynamoDB does not answer, a second apart and longer.
_TRIES = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A redrive of many events, as it was chosen and started."""

    id: str
    chosen_by: str
    chosen_at: str  # RFC 3339
    sink: str | None  # the only one to deliver to
    count: int
    complete: bool  # False where there were more than fit, or choosing took too long
    lacking: Mapping[str, int]  # events, by the sink that lacks them
    first: Sequence[str]  # ids, to be looked at
    started_by: str | None = None
    rate: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come."""

    state: str  # chosen, running, stopped, interrupted or done
    left: int
    answers: Mapping[str, int]
    why: str | None = None  # why it is stopped or interrupted

    @property
    def done(self) -> int:
        """Events that have been asked for."""
        return sum(self.answers.values())


class Runs:
    """The runs of the last day, in Redis.

    Every method raises ``RedisError`` where Redis does not answer.
    """

    def __init__(self, redis: Redis) -> None:
        """Keep them in ``redis``."""
        self._redis = redis

    def add(self, run: Run, keys: Sequence[str]) -> None:
        """Keep a run that has been chosen."""
        pipe = self._redis.pipeline()
        pipe.set(_key(run.id), json.dumps(asdict(run)), ex=_KEPT)
        if keys:
            pipe.rpush(_key(run.id, "keys"), *keys)
            pipe.expire(_key(run.id, "keys"), _KEPT)
        pipe.execute()

    def get(self, run_id: str) -> Run | None:
        """Return a run, or None if it is older than a day."""
        text = self._redis.get(_key(run_id))
        return Run(**json.loads(text)) if text else None

    def progress(self, run: Run) -> Progress:
        """Tell how far a run has come."""
        pipe = self._redis.pipeline()
        pipe.llen(_key(run.id, "keys"))
        pipe.hgetall(_key(run.id, "answers"))
        pipe.get(_key(run.id, "stop"))
        pipe.get(_RUNNING)
        left, answers, why, running = pipe.execute()
        if run.started_by is None:
            state = "chosen"
        elif not left:
            state = "done"
        elif why:
            state = "stopped"
        else:
            state = "running" if _text(running) == run.id else "interrupted"
        counted = {_text(answer) or "": int(count) for answer, count in answers.items()}
        return Progress(state=state, left=left, answers=counted, why=_text(why))

    def start(self, run: Run) -> str | None:
        """Make a run the one that works; return the id of another that does."""
        if not self._redis.set(_RUNNING, run.id, nx=True, ex=_SILENCE):
            running = _text(self._redis.get(_RUNNING))
            return running or self.start(run)
        pipe = self._redis.pipeline()
        pipe.set(_key(run.id), json.dumps(asdict(run)), ex=_KEPT)
        pipe.delete(_key(run.id, "stop"))
        pipe.execute()
        return None

    def next(self, run: Run) -> str | None:
        """Say that a run is still at work, and return the id of its next event.

        None where there is none left, or it was stopped, or counts as interrupted.
        """
        pipe = self._redis.pipeline()
        pipe.get(_RUNNING)
        pipe.get(_key(run.id, "stop"))
        pipe.lindex(_key(run.id, "keys"), 0)
        pipe.expire(_RUNNING, _SILENCE)
        running, why, key, _ = pipe.execute()
        return None if why or _text(running) != run.id else _text(key)

    def note(self, run: Run, key: str, answer: str) -> None:
        """Take an event off the list, and count what became of it; once, whoever else did."""
        if self._redis.lrem(_key(run.id, "keys"), 1, key):
            pipe = self._redis.pipeline()
            pipe.hincrby(_key(run.id, "answers"), answer, 1)
            pipe.expire(_key(run.id, "answers"), _KEPT)
            pipe.execute()

    def stop(self, run: Run, why: str) -> None:
        """Make a run stop after its present event."""
        self._redis.set(_key(run.id, "stop"), why, ex=_KEPT)

    def end(self, run: Run) -> None:
        """Let another run work."""
        if _text(self._redis.get(_RUNNING)) == run.id:
            self._redis.delete(_RUNNING)


#: Which run works.
_RUNNING = "redrive.running"


def _key(run_id: str, part: str = "") -> str:
    return f"redrive.{run_id}.{part}" if part else f"redrive.{run_id}"


def _text(value: Any) -> str | None:
    """Return what Redis gave, whether or not its client decodes."""
    return value.decode() if isinstance(value, bytes) else value


def choose(
    found: Iterable[Summary], *, by: str, sink: str | None, patience: float = SELECTION_TIMEOUT
) -> tuple[Run, list[str]]:
    """Choose events for a run; return it and their ids.

    Raises:
        StoreError: DynamoDB does not answer.
    """
    deadline = time.monotonic() + patience
    keys: list[str] = []
    lacking: Counter[str] = Counter()
    complete = True
    for summary in islice(found, MOST + 1):
        if len(keys) == MOST or time.monotonic() > deadline:
            complete = False
            break
        keys.append(summary.id)
        sinks = [s for s in undelivered(summary.deliveries) if s in SINKS and sink in (None, s)]
        lacking.update(sinks if summary.deliveries else [NOT_VALID])
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
    """Redrive what is left of a run, at its pace, until it is done or stopped."""
    number = 0
    left = iter(lambda: runs.next(run), None)
    try:
        for number, key in enumerate(throttle(left, run.rate), start=1):  # noqa: B007 - for the log
            answer = _redrive(run, key, claims, rules)
            if answer is None:
                runs.stop(run, "DynamoDB did not answer")
                return
            runs.note(run, key, answer)
    except RedisError as error:
        _log.error("redrive %s interrupted: %s", run.id, type(error).__name__)
        return
    finally:
        with suppress(RedisError):  # it counts as interrupted before long
            runs.end(run)
        _log.info("redrive %s of %s ends after %d events", run.id, run.started_by, number)


def _redrive(run: Run, key: str, claims: Claims, rules: MetadataRules) -> str | None:
    """Redrive one event; say what it came to, None where DynamoDB does not answer."""
    for attempt in range(_TRIES):
        try:
            return redrive_event(claims, rules, key, actor=str(run.started_by), sink=run.sink).value
        except ClaimNotFoundError:
            return "not to be found"
        except StoreError:
            time.sleep(attempt + 1)  # DynamoDB may be back then; nobody's request waits for it
    return None


def remaining(run: Run, progress: Progress) -> str:
    """Say how long the rest of a run takes at its pace."""
    return duration(progress.left / run.rate)


class ChoosePage(Page):
    """By POST: what a redrive of the selected events, or of all that match, would do."""

    async def post(self) -> None:
        """Choose events, and go where they are shown before anything is done."""
        names = ("status", "sink", "type", "since", "until")
        try:
            wanted = Filter.from_arguments({name: self.text(name) for name in names})
        except ValueError as error:
            raise HTTPError(400, f"The filter says what cannot be: {error}") from error
        every = self.text("scope") == "all"
        found = wanted.to_redrive(table()) if every else selected(self.get_arguments("key"))
        sink = wanted.sink
        run, keys = await in_thread(choose, found, by=self.current_user.name, sink=sink)
        await in_thread(Runs(redis()).add, run, keys)
        self.redirect(self.reverse_url("redrive", run.id), status=303)


def selected(keys: Sequence[str]) -> Iterator[Summary]:
    """Yield the events with these ids that there are."""
    return (claim.summary() for claim in map(table().get, keys) if claim)


class RedrivePage(Page):
    """A run: what it would do, then how far it has come."""

    async def get(self, run_id: str) -> None:
        """Show it."""
        run = await self._run(run_id)
        progress = await in_thread(Runs(redis()).progress, run)
        self.render(
            "bulk_redrive.html",
            run=run,
            progress=progress,
            remaining=remaining(run, progress),
            fastest=FASTEST,
            busy=self.text("busy"),
        )

    async def post(self, run_id: str) -> None:
        """Start it, stop it, or go on with it."""
        runs = Runs(redis())
        run = await self._run(run_id)
        to = self.reverse_url("redrive", run_id)
        if self.text("do") == "stop":
            await in_thread(runs.stop, run, f"{self.current_user.name} stopped it")
        else:
            rate = min(FASTEST, max(0.1, self.get_argument("rate", "20", type=float)))
            run = replace(run, started_by=self.current_user.name, rate=rate)
            if busy := await in_thread(runs.start, run):
                if busy != run_id:  # else it was a second click
                    to += f"?busy={busy}"
            else:
                _log.info("%s starts redrive %s of %d events", run.started_by, run.id, run.count)
                arguments = (runs, run, table(), rules())
                threading.Thread(target=work, args=arguments, daemon=True).start()
        self.redirect(to, status=303)

    async def _run(self, run_id: str) -> Run:
        run = await in_thread(Runs(redis()).get, run_id)
        if run is None:
            raise HTTPError(404, "No such redrive: they are kept for a day.")
        return run
