"""EventBridge's part: events at a steady rate, each posted again until ingest has taken it."""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus
from http.client import HTTPException

from tests.support.envelopes import TYPES, Envelope, envelope
from tests.support.system import IngestContainer

#: Posts at a time.
THREADS = 8

#: Seconds before an event is posted again; EventBridge would wait longer.
PAUSE = 1.0

#: The answers after which EventBridge posts an event again (docs/facts.md).
AGAIN = frozenset({401, 407, 409, 429, *range(500, 600)})


def events(rng: random.Random, count: int | None) -> Iterator[Envelope]:
    """Make so many valid events of all types, or events without end."""
    kinds = list(TYPES)
    made = 0
    while count is None or made < count:
        made += 1
        yield envelope(
            rng.choice(kinds),
            id=str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            detail={"interactionId": f"interaction-{made}-{rng.getrandbits(32):08x}"},
        )


class Load:
    """Posts events from ``with`` on, until there are no more, or the time is over.

    ``accepted`` maps the id of each event that was answered 202 to its interaction's.
    """

    def __init__(
        self,
        ingest: IngestContainer,
        events: Iterator[Envelope],
        rate: float,
        seconds: float = float("inf"),
    ) -> None:
        """Post ``rate`` events a second, for so many seconds."""
        self.accepted: dict[str, str] = {}
        self.refused: dict[str, int] = {}
        self.posted_again: Counter[str] = Counter()
        self._ingest = ingest
        self._events = events
        self._rate = rate
        self._begun = time.monotonic()
        self._end = self._begun + seconds
        self._taken = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS, "load")
        self._futures: list[Future[None]] = []

    def __enter__(self) -> "Load":
        """Begin to post."""
        self._futures = [self._pool.submit(self._post_all) for _ in range(THREADS)]
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, if it is not over."""
        self._stopped.set()
        self._pool.shutdown()

    def is_over(self) -> bool:
        """Whether everything was posted and answered; raises what a thread raised."""
        return all(future.done() and future.result() is None for future in self._futures)

    def _post_all(self) -> None:
        while event := self._next():
            while not (self._is_answered(event) or self._stopped.wait(PAUSE)):
                pass

    def _next(self) -> Envelope | None:
        """Wait for the next event's time; what could not be posted in time is caught up with."""
        with self._lock:
            due = self._begun + self._taken / self._rate
            event = next(self._events, None) if due < self._end else None
            self._taken += 1
        self._stopped.wait(max(0.0, due - time.monotonic()) if event else 0)
        return None if self._stopped.is_set() else event

    def _is_answered(self, event: Envelope) -> bool:
        """Post an event; False if it has to be posted again."""
        try:
            answer = self._ingest.post(event)
        except (OSError, HTTPException):
            self._count("no answer")
            return False
        if answer.status == HTTPStatus.ACCEPTED:
            self.accepted[event["id"]] = event["detail"]["interactionId"]
        elif answer.status in AGAIN:
            self._count(f"{answer.status} {answer.json['error'].partition(':')[0]}")
            return False
        else:
            self.refused[event["id"]] = answer.status
        return True

    def _count(self, reason: str) -> None:
        with self._lock:
            self.posted_again[reason] += 1
