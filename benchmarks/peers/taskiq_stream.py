"""Taskiq on a Redis stream: claim, three deliveries, settle.

Taskiq has no chord: the delivery that raises a counter in Redis to three sends settle.
"""

import asyncio
import os
from collections.abc import Iterable

from redis.asyncio import Redis
from taskiq_redis import RedisStreamBroker

from benchmarks.peers import work

URL = os.environ["REDIS_URL"]

#: No timeout: it would expire while the process is suspended between rounds.
broker = RedisStreamBroker(URL, socket_timeout=None)
counters: Redis = Redis.from_url(URL)


@broker.task
async def process(event: work.Event) -> None:
    """Claim an event, and fan it out."""
    if await asyncio.to_thread(work.claim, event):
        for sink in work.SINKS:
            await deliver.kiq(event, sink)


@broker.task
async def deliver(event: work.Event, sink: str) -> None:
    """Post an event to one sink; the last one sends settle."""
    await asyncio.to_thread(work.deliver, event, sink)
    if await counters.incr(f"delivered:{event['id']}") == len(work.SINKS):
        await counters.delete(f"delivered:{event['id']}")
        await settle.kiq(event["id"])


@broker.task
async def settle(key: str) -> None:
    """Write the final status."""
    await asyncio.to_thread(work.settle, key)


async def _feed(events: Iterable[work.Event]) -> None:
    await broker.startup()
    for event in events:
        await process.kiq(event)
    await broker.shutdown()


def feed(events: Iterable[work.Event]) -> None:
    """Queue events."""
    asyncio.run(_feed(events))
