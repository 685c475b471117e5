"""The consumer of a worker: Celery's, which tells of its tasks a few times a second.

Celery's own tells Flower of every step of every task at once, and a worker's loop waits for Redis
each time: for more than half of its time, where Redis syncs each write to its disk.
"""

import time
from typing import Any

from celery.worker import consumer

#: Seconds between two reports of what became of tasks.
REPORT_EVERY = 0.2


class Consumer(consumer.Consumer):
    """What ``worker_consumer`` names."""

    hub: Any
    _flush_events: Any
    _reported = 0.0

    def on_send_event_buffered(self) -> None:  # type: ignore[override] # its stub is mistaken
        """See to it that what waits to be told is told soon."""
        # By the clock, since timers are forgotten where the connection is lost.
        if self.hub and (moment := time.monotonic()) >= self._reported:
            self._reported = moment + REPORT_EVERY
            self.hub.call_later(REPORT_EVERY, self._flush_events)

    def shutdown(self) -> None:
        """Tell the rest before the connection is closed."""
        self._flush_events()
        super().shutdown()
