"""How the whole stands, and on top of it what is wrong; nothing here looks at events one by one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import RedisError

from dashboard.charts import Plot, Series, bars, durations, lines
from dashboard.formatting import duration
from dashboard.pages.base import Page, in_thread
from tasks import counters
from tasks.clock import from_rfc3339, now
from tasks.counters import lag_percentile, name_of
from tasks.observability import stats
from tasks.runtime import redis
from tasks.sinks import SINKS

#: Seconds that the next message of a queue may have waited.
LONG_WAIT = 120

#: The share of a sink's deliveries that may fail within an hour.
FEW = 0.05


class Span(NamedTuple):
    """How far back the plots go, and how many minutes a point of theirs is. In minutes."""

    title: str
    back: int
    point: int
    refresh: int  # seconds


SPANS: Mapping[str, Span] = {
    "hour": Span("The last hour, by the minute", 60, 1, 10),
    "day": Span("The last day, by a quarter of an hour", counters.MINUTES_KEPT, 15, 60),
}


class Problem(NamedTuple):
    """Something that is wrong, and the section of the runbook on it."""

    what: str
    section: str


#: Without Redis, nothing else can be told.
AWAY = Problem(
    "Redis does not answer: events wait at EventBridge, and nothing moves.", "redis-away"
)


def problems(
    seen: Mapping[str, Any], hour: Mapping[str, int], moment: datetime
) -> Iterator[Problem]:
    """Tell what is wrong: ``seen`` is ``stats.latest``, ``hour`` the counts of the last hour."""
    tolerance = 3 * seen["sweepIntervalSeconds"] + 60
    if seen["at"] is None:
        yield Problem("No sweep has run yet: is there a beat?", "no-sweep")
    else:
        age = (moment - from_rfc3339(seen["at"])).total_seconds()
        if age > tolerance:
            said = f"The last sweep was {duration(age)} ago: nothing is taken over meanwhile."
            yield Problem(said, "no-sweep")
        if (oldest := seen["oldestOverdueSeconds"]) > tolerance:
            said = f"{_events(seen['overdue'])} overdue, the oldest for {duration(oldest)}."
            yield Problem(said, "overdue")
    for name, sink in seen["sinks"].items():
        if sink["state"] != "closed":
            waiting = f"; {_events(sink['parked'])} parked" if sink["parked"] else ""
            yield Problem(f"{name} is down: its breaker is {sink['state']}{waiting}.", "sink-down")
        yield from _failing(name, hour)
    for queue, wait in seen["waitSeconds"].items():
        if wait > LONG_WAIT:
            said = f"The queue {queue} has waited for {duration(wait)}: too few workers?"
            yield Problem(said, "queue-waits")
    yield from _refused(hour)


def _events(count: int) -> str:
    return f"{count:,} event{'' if count == 1 else 's'}"


def _failing(sink: str, hour: Mapping[str, int]) -> Iterator[Problem]:
    ends = ended(hour, sink)
    failed = ends["failed"] + ends["revoked"]
    if failed > FEW * sum(ends.values()):
        said = f"{failed:,} of {sum(ends.values()):,} deliveries to {sink} failed within the hour."
        yield Problem(said, "deliveries-fail")


def _refused(hour: Mapping[str, int]) -> Iterator[Problem]:
    for counter, said, section in (
        (name_of("refused", code="401"), "requests with no key that ingest knows", "wrong-key"),
        (
            name_of("refused", code="503"),
            "requests that were told to come back later",
            "ingest-full",
        ),
        (name_of("processed", answer="invalid"), "events that were not valid", "invalid"),
        (name_of("processed", answer="conflict"), "ids that came with another payload", "conflict"),
    ):
        if count := hour.get(counter, 0):
            yield Problem(f"Within the hour, {said}: {count:,}.", section)


def ended(counts: Mapping[str, int], sink: str) -> dict[str, int]:
    """Count the deliveries to a sink by how they ended."""
    outcomes = ("delivered", "parked", "failed", "revoked")
    return {
        outcome: counts.get(name_of("deliveries", sink=sink, outcome=outcome), 0)
        for outcome in outcomes
    }


#: How outcomes and percentiles are drawn.
_LOOKS = {"delivered": "dash-good", "parked": "dash-wait", "failed": "dash-bad"}
_SHARES = {"p50": (0.5, "dash-main"), "p95": (0.95, "dash-wait"), "p99": (0.99, "dash-bad")}


def plots(points: Sequence[Mapping[str, int]], times: Sequence[str]) -> list[Plot]:
    """Draw throughput, lag and what became of deliveries; ``points`` are counts, oldest first."""
    in_all = counters.added_up(points)
    counted = {
        "accepted": ("dash-plain", [point.get("accepted", 0) for point in points]),
        "settled": ("dash-main", [stats.settled(point) for point in points]),
    }
    events = [Series(n, look, values, f"{sum(values):,}") for n, (look, values) in counted.items()]
    lag = [
        Series(
            name, look, [lag_percentile(p, of) for p in points], _lag(lag_percentile(in_all, of))
        )
        for name, (of, look) in _SHARES.items()
    ]
    return [
        lines("Events", times, events),
        durations("Lag: from receipt until settled", times, lag),
        *(_outcomes(sink, points, times) for sink in SINKS),
    ]


def _outcomes(sink: str, points: Sequence[Mapping[str, int]], times: Sequence[str]) -> Plot:
    by_point = [ended(point, sink) for point in points]
    series = []
    for outcome in by_point[0]:
        values = [ends[outcome] for ends in by_point]
        look = _LOOKS.get(outcome, "dash-plain")
        series.append(Series(outcome, look, values, f"{sum(values):,}"))
    return bars(f"Deliveries to {sink}", times, series)


def _lag(seconds: float | None) -> str:
    """Write a lag, which is the upper bound of a bucket."""
    if seconds is None:
        return "–"
    most = counters.LAG_BOUNDS[-1]
    if seconds > most:
        return f"> {duration(most)}"
    return f"≤ {seconds:g} s" if 1 <= seconds < 60 else f"≤ {duration(seconds)}"


class Overview(NamedTuple):
    """What the page shows."""

    seen: Mapping[str, Any]
    problems: Sequence[Problem]
    plots: Sequence[Plot]
    times: Sequence[str]  # of the points of the plots


def overview(redis: Redis, span: Span, moment: datetime) -> Overview:
    """Look at what Redis has; the whole costs a few calls.

    Raises:
        RedisError: Redis does not answer.
    """
    minutes = counters.minutes(redis, span.back)
    hour = counters.added_up(minutes[-60:])
    points = [
        counters.added_up(minutes[first : first + span.point])
        for first in range(0, span.back, span.point)
    ]
    begin = moment - timedelta(minutes=span.back - 1)
    times = [
        f"{begin + timedelta(minutes=number * span.point):%H:%M}" for number in range(len(points))
    ]
    seen = stats.latest(redis)
    return Overview(seen, list(problems(seen, hour, moment)), plots(points, times), times)


class OverviewPage(Page):
    """How the whole stands."""

    async def get(self) -> None:
        """Show it; without Redis, that it is away."""
        name = self.text("span") if self.text("span") in SPANS else "hour"
        found = await in_thread(_find, SPANS[name])
        if found is None:
            self.set_status(503)
        self.render(
            "overview.html",
            found=found,
            problems=found.problems if found else [AWAY],
            span=name,
            spans=SPANS,
            lag=_lag,
            duration=duration,
        )


def _find(span: Span) -> Overview | None:
    with suppress(RedisError):
        return overview(redis(), span, now())
    return None
