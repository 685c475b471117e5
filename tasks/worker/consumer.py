"""A step in the start of a worker's consumer: task events are sent a few times a second.

Celery sends Flower every event of every task at once, and a worker's loop waits for Redis each
time: for more than half of its time, where Redis syncs each write to its disk.
"""

import time
from functools import partial
from typing import Any

from celery import bootsteps

#: Seconds between two transmissions of task events.
SEND_INTERVAL = 0.2


class SendEventsTogether(bootsteps.StartStopStep):
    """A bootstep for ``app.steps["consumer"]``."""

    requires = ("celery.worker.consumer.events:Events",)
    _next = 0.0

    def start(self, parent: Any) -> None:
        """Buffer the task events of a new connection."""
        if parent.hub and parent.event_dispatcher:
            parent.event_dispatcher.on_send_buffered = partial(self._flush_later, parent)

    def shutdown(self, parent: Any) -> None:
        """Send the rest before the connection is closed."""
        if parent.event_dispatcher:
            parent.event_dispatcher.flush()

    def _flush_later(self, parent: Any) -> None:
        # By the clock, since timers are forgotten where the connection is lost.
        if (moment := time.monotonic()) >= self._next:
            self._next = moment + SEND_INTERVAL
            parent.hub.call_later(SEND_INTERVAL, self.shutdown, parent)
