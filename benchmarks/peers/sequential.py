"""One Celery task that does all steps in sequence."""

import os
from collections.abc import Iterable

from celery import Celery

from benchmarks.peers import work

app = Celery("sequential", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@app.task
def process(event: work.Event) -> None:
    """Claim an event, post it to each sink, and write the final status."""
    if work.claim(event):
        for sink in work.SINKS:
            work.deliver(event, sink)
        work.settle(event["id"])


def feed(events: Iterable[work.Event]) -> None:
    """Queue events."""
    for event in events:
        process.delay(event)
