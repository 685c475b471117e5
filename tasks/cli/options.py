"""What ``redrive`` and ``dead-letters`` share: their rate and their progress."""

import math
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import click

from tasks.recovery.redrive import throttle

T = TypeVar("T")


class _Rate(click.FloatRange):
    """A rate per second. NaN is in every range, as it compares false with both of its ends."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        rate = super().convert(value, param, ctx)
        if not math.isfinite(rate):
            self.fail(f"{value} is not a number of events a second, such as 20 or 0.5", param, ctx)
        return rate


#: The rate of both.
rate_option = click.option(
    "--rate", type=_Rate(0.1), default=20.0, show_default=True, help="Events per second."
)


def with_progress(items: Iterable[T], rate: float, total: str) -> Iterator[T]:
    """Yield items, at most ``rate`` a second; print how many of ``total`` are done.

    Every second on a terminal, every ten in a log.
    """
    printed = time.monotonic()
    for number, item in enumerate(throttle(items, rate), start=1):
        yield item
        if time.monotonic() - printed > (1 if sys.stderr.isatty() else 10):
            printed = time.monotonic()
            click.echo(f"{number} of {total}", err=True)
