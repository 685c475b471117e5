"""Queues events for this project, as ingest publishes them."""

from collections.abc import Sequence
from typing import Any

from ingest.publisher import EventQueue
from tasks.celery import app
from tasks.clock import now, to_rfc3339
from tasks.events import load_envelope
from tasks.settings import settings


def feed(events: Sequence[dict[str, Any]]) -> None:
    """Queue events."""
    policy = settings().replay_policy
    queue = EventQueue(app, max_backlog=10**9, threads=1, replay_policy=policy)
    for start in range(0, len(events), 100):
        batch = [load_envelope(event) for event in events[start : start + 100]]
        queue.put(batch, to_rfc3339(now()))
