"""What ``redrive`` and ``dead-letters`` share: how fast they go, and word of how far they are."""

import math
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import click

from tasks.recovery.redrive import throttle

T = TypeVar("T")


class _Rate(click.FloatRange):
    """How many a second. NaN is in every range, as it compares false with both of its ends."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        rate = super().convert(value, param, ctx)
        if not math.isfinite(rate):
            self.fail(f"{value} is not a number of events a second, such as 20 or 0.5", param, ctx)
        return rate


#: The option by which both are told their pace.
rate_option = click.option(
    "--rate", type=_Rate(0.1), default=20.0, show_default=True, help="A second."
)


def with_progress(items: Iterable[T], rate: float, total: str) -> Iterator[T]:
    """Yield items, no more than ``rate`` a second; tell how many of ``total`` are done.

    A terminal is told every second, a log every ten.
    """
    told = time.monotonic()
    for number, item in enumerate(throttle(items, rate), start=1):
        yield item
        if time.monotonic() - told > (1 if sys.stderr.isatty() else 10):
            told = time.monotonic()
            click.echo(f"{number} of {total}", err=True)
