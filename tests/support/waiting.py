"""Waiting for a condition, with a timeout: the only way in which these tests wait."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds that something may take which normally takes a fraction of one.
TIMEOUT = 20.0


def eventually(condition: Callable[[], T], seconds: float = TIMEOUT, what: str = "") -> T:
    """Return what ``condition`` returns as soon as that is true; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or condition}; got {result!r}")
        time.sleep(0.02)
    return result
