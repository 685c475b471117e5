"""The state of the whole system, with its problems on top; reads counters, never events."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from redis import Redis
from tornado.web import HTTPError

from dashboard.charts import Chart, Series, bars, durations, lines
from dashboard.formatting import duration, plural
from dashboard.pages.base import Page, in_thread
from tasks import counters
from tasks.clock import from_rfc3339, now
from tasks.counters import lag_percentile, name_of
from tasks.observability import stats
from tasks.runtime import redis
from tasks.sinks import SINKS

#: Outcomes of deliveries, and percentiles of the lag, with their styles.
_OUTCOMES = {
    "delivered": "dash-good",
    "parked": "dash-wait",
    "failed": "dash-bad",
    "revoked": "dash-plain",
}
_PERCENTILES = {"p50": (0.5, "dash-main"), "p95": (0.95, "dash-wait"), "p99": (0.99, "dash-bad")}

#: How long the next message of a queue may have waited, in seconds.
MAX_QUEUE_WAIT = 120

#: The share of a sink's deliveries that may fail within an hour.
MAX_FAILURE_RATE = 0.05


class Span(NamedTuple):
    """What the charts cover, in minutes: how far back they go, and how much each point is."""

    title: str
    back: int
    point: int
    refresh: int  # in seconds


SPANS: Mapping[str, Span] = {
    "hour": Span("The last hour, in steps of a minute", 60, 1, 10),
    "day": Span("The last day, in steps of 15 minutes", counters.MINUTES_KEPT, 15, 60),
}


class Problem(NamedTuple):
    """Something that is wrong, and the section of the runbook about it."""

    text: str
    section: str


#: The only problem that is known without Redis.
REDIS_UNAVAILABLE = Problem(
    "Redis does not answer: events wait at EventBridge, and nothing is processed.", "redis-away"
)


def problems(
    snapshot: Mapping[str, Any], hour: Mapping[str, int], moment: datetime
) -> Iterator[Problem]:
    """Yield what is wrong: ``snapshot`` is ``stats.latest``, ``hour`` the last hour's counts."""
    tolerance = 3 * snapshot["sweepIntervalSeconds"] + 60
    if snapshot["at"] is None:
        yield Problem("No sweep has run yet. Is beat running?", "no-sweep")
    else:
        age = (moment - from_rfc3339(snapshot["at"])).total_seconds()
        if age > tolerance:
            text = f"The last sweep was {duration(age)} ago: unfinished work is not taken over."
            yield Problem(text, "no-sweep")
        if (oldest := snapshot["oldestOverdueSeconds"]) > tolerance:
            overdue = plural(snapshot["overdue"], "event")
            yield Problem(f"{overdue} overdue, the oldest for {duration(oldest)}.", "overdue")
    for name, sink in snapshot["sinks"].items():
        if sink["state"] != "closed":
            parked = f"; {plural(sink['parked'], 'event')} parked" if sink["parked"] else ""
            text = f"{name} is down: its circuit breaker is {sink['state']}{parked}."
            yield Problem(text, "sink-down")
        yield from _failing(name, hour)
    for queue, wait in snapshot["waitSeconds"].items():
        if wait > MAX_QUEUE_WAIT:
            text = f"The next message of {queue} has waited for {duration(wait)}. Too few workers?"
            yield Problem(text, "queue-waits")
    yield from _refused(hour)


def _failing(sink: str, hour: Mapping[str, int]) -> Iterator[Problem]:
    counts = outcome_counts(hour, sink)
    failed, total = counts["failed"] + counts["revoked"], sum(counts.values())
    if failed > MAX_FAILURE_RATE * total:
        text = f"{failed:,} of {total:,} deliveries to {sink} failed within the hour."
        yield Problem(text, "deliveries-fail")


def _refused(hour: Mapping[str, int]) -> Iterator[Problem]:
    for counter, what, section in (
        (name_of("refused", code="401"), "requests with a wrong API key", "wrong-key"),
        (name_of("refused", code="503"), "requests that ingest was too busy for", "ingest-full"),
        (name_of("processed", answer="invalid"), "invalid events", "invalid"),
        (name_of("processed", answer="conflict"), "ids reused for another payload", "conflict"),
    ):
        if count := hour.get(counter, 0):
            yield Problem(f"Within the hour, {what}: {count:,}.", section)


def outcome_counts(counts: Mapping[str, int], sink: str) -> dict[str, int]:
    """Return the number of deliveries to a sink by outcome."""
    return {
        outcome: counts.get(name_of("deliveries", sink=sink, outcome=outcome), 0)
        for outcome in _OUTCOMES
    }


def charts(points: Sequence[Mapping[str, int]], times: Sequence[str]) -> list[Chart]:
    """Draw throughput, lag and outcomes of deliveries; ``points`` are counts, oldest first."""
    total = counters.added_up(points)
    events = [
        _counts("accepted", "dash-plain", [point.get("accepted", 0) for point in points]),
        _counts("settled", "dash-main", [stats.settled(point) for point in points]),
    ]
    lag = [
        Series(
            name,
            style,
            [lag_percentile(point, share) for point in points],
            _lag(lag_percentile(total, share)),
        )
        for name, (share, style) in _PERCENTILES.items()
    ]
    return [
        lines("Events", times, events),
        durations("Lag, from receipt until settled", times, lag),
        *(_outcomes(sink, points, times) for sink in SINKS),
    ]


def _outcomes(sink: str, points: Sequence[Mapping[str, int]], times: Sequence[str]) -> Chart:
    by_point = [outcome_counts(point, sink) for point in points]
    series = [
        _counts(outcome, style, [counts[outcome] for counts in by_point])
        for outcome, style in _OUTCOMES.items()
    ]
    return bars(f"Deliveries to {sink}", times, series)


def _counts(name: str, style: str, values: Sequence[int]) -> Series:
    return Series(name, style, values, f"{sum(values):,}")


def _lag(seconds: float | None) -> str:
    """Format a lag, which is the upper bound of a histogram bucket."""
    if seconds is None:
        return "–"
    most = counters.LAG_BOUNDS[-1]
    if seconds > most:
        return f"> {duration(most)}"
    return f"≤ {seconds:g} s" if 1 <= seconds < 60 else f"≤ {duration(seconds)}"


class Overview(NamedTuple):
    """What the page shows."""

    snapshot: Mapping[str, Any]
    problems: Sequence[Problem]
    charts: Sequence[Chart]
    times: Sequence[str]  # of the points of the charts


def read_overview(redis: Redis, span: Span, moment: datetime) -> Overview:
    """Read all of it from Redis, in a few calls.

    Raises:
        RedisError: Redis does not answer.
    """
    minutes = counters.minutes(redis, span.back)
    hour = counters.added_up(minutes[-60:])
    steps = range(0, span.back, span.point)
    points = [counters.added_up(minutes[first : first + span.point]) for first in steps]
    begin = moment - timedelta(minutes=span.back - 1)
    times = [f"{begin + timedelta(minutes=first):%H:%M}" for first in steps]
    snapshot = stats.latest(redis)
    found = list(problems(snapshot, hour, moment))
    return Overview(snapshot, found, charts(points, times), times)


class OverviewPage(Page):
    """The state of the whole system."""

    async def get(self) -> None:
        """Show it; without Redis, only that it is unavailable."""
        name = self.text("span") if self.text("span") in SPANS else "hour"
        overview = None
        try:
            overview = await in_thread(read_overview, redis(), SPANS[name], now())
        except HTTPError as error:  # Redis does not answer
            self.set_status(error.status_code)
        self.render(
            "overview.html",
            overview=overview,
            problems=overview.problems if overview else [REDIS_UNAVAILABLE],
            span=name,
            spans=SPANS,
            lag=_lag,
            duration=duration,
        )
