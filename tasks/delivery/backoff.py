"""Waits between attempts: exponential backoff with full jitter, Retry-After, deadlines."""

import random
import time

from tasks.sinks import Policy


def jitter(least: float, most: float) -> float:
    """Return a random wait, so that workers that failed together do not return together."""
    return random.uniform(least, most)  # noqa: S311 - not used for security


def retry_delay(attempt: int, policy: Policy, retry_after: float | None = None) -> float:
    """Return the seconds to wait after attempt 1, 2, …, as ``Policy`` describes them."""
    if retry_after is not None:
        return min(retry_after, policy.retry_after_cap)
    return jitter(0, min(policy.backoff_base * 2 ** (attempt - 1), policy.backoff_cap))


class Deadline:
    """The end of all attempts together, so many seconds from now."""

    def __init__(self, seconds: float) -> None:
        """Start the clock."""
        self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then; negative once it has passed."""
        return self._at - time.monotonic()

    def sleep(self, seconds: float) -> bool:
        """Sleep and return True; False, at once, if that would end after the deadline."""
        if seconds > self.left:
            return False
        time.sleep(seconds)
        return True
