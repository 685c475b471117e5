"""A Dramatiq group with a completion callback: claim, three deliveries, settle."""

import os
from collections.abc import Iterable

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits.backends import RedisBackend

from benchmarks.peers import work

URL = os.environ["REDIS_URL"]

broker = RedisBroker(url=URL)
broker.add_middleware(GroupCallbacks(RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor
def process(event: work.Event) -> None:
    """Claim an event, and fan it out."""
    if work.claim(event):
        group = dramatiq.group(deliver.message(event, sink) for sink in work.SINKS)
        group.add_completion_callback(settle.message(event["id"]))
        group.run()


@dramatiq.actor
def deliver(event: work.Event, sink: str) -> None:
    """Post an event to one sink."""
    work.deliver(event, sink)


@dramatiq.actor
def settle(key: str) -> None:
    """Write the final status."""
    work.settle(key)


def feed(events: Iterable[work.Event]) -> None:
    """Queue events."""
    for event in events:
        process.send(event)
