"""A Celery chord with Celery's defaults: claim, three deliveries, settle."""

import os
from collections.abc import Iterable
from typing import Any

from celery import Celery, chord

from benchmarks.peers import work

app = Celery("naive", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@app.task
def process(event: work.Event) -> None:
    """Claim an event, and fan it out."""
    if work.claim(event):
        chord(deliver.s(event, sink) for sink in work.SINKS)(settle.s(event["id"]))


@app.task
def deliver(event: work.Event, sink: str) -> bool:
    """Post an event to one sink."""
    return work.deliver(event, sink)


@app.task
def settle(_results: Any, key: str) -> None:
    """Write the final status."""
    work.settle(key)


def feed(events: Iterable[work.Event]) -> None:
    """Queue events."""
    for event in events:
        process.delay(event)
