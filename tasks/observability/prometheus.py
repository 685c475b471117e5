"""Our metrics as Prometheus reads them: those of all processes together, from Redis.

Every process that is asked gives the same numbers, so one of them is scraped.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError

from tasks.claims import Outcome, Status
from tasks.clock import from_rfc3339
from tasks.counters import labels_of, lag_buckets, name_of, totals
from tasks.delivery.circuit_breaker import State
from tasks.observability import stats
from tasks.sinks import SINKS

#: What ``exposition`` is.
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Total(NamedTuple):
    """A counter: its name without ``_total``, what it says, and which labels it has.

    Values of labels that are known beforehand are there from the start, at 0: else Prometheus
    would not see the first of them happen.
    """

    name: str
    help: str
    labels: Mapping[str, Sequence[str]] = {}


_ENDS = [outcome.value for outcome in Outcome if outcome is not Outcome.PENDING]
_FINAL = [status.value for status in Status if status is not Status.PROCESSING]
_CODES = ["400", "401", "404", "405", "408", "413", "503", "record"]

#: By the name that ``tasks/counters.py`` counts under.
TOTALS: Mapping[str, Total] = {
    "accepted": Total("cxone_events_accepted", "Events that ingest took."),
    "ignored": Total("cxone_events_ignored", "Events of another source, which ingest let pass."),
    "refused": Total(
        "cxone_requests_refused",
        "Requests that ingest refused, by HTTP status; 'record' is one event of a batch.",
        {"code": _CODES},
    ),
    "processed": Total(
        "cxone_events_processed",
        "What became of accepted events at their claim; duplicates are counted again.",
        {"answer": ["claimed", "duplicate", "invalid", "conflict", "ignored"]},
    ),
    "settled": Total(
        "cxone_events_settled",
        "Settles by final status; an event that is delivered again settles again.",
        {"status": _FINAL},
    ),
    "deliveries": Total(
        "cxone_deliveries",
        "Deliveries by sink and how they ended.",
        {"sink": list(SINKS), "outcome": _ENDS},
    ),
    "attempts": Total("cxone_delivery_attempts", "HTTP calls to sinks.", {"sink": list(SINKS)}),
    "contexts": Total(
        "cxone_contexts", "Contexts asked of CXone.", {"outcome": ["had", "awaited", "missing"]}
    ),
    "takeovers": Total(
        "cxone_sweep_takeovers",
        "Claims taken over: 'overdue' was not settled by its holder, 'settled' is tried again on "
        "the long schedule, 'parked' waited for its sink.",
        {"of": ["overdue", "settled", "parked"]},
    ),
}


class Metrics(Collector):
    """What there is to tell at a scrape."""

    def __init__(self, redis: Redis) -> None:
        """Read it from ``redis``."""
        self._redis = redis

    def collect(self) -> Iterator[Any]:
        """Yield every metric; where Redis does not answer, only that."""
        says = "Whether Redis answered; without it there are no other metrics."
        try:
            counts, seen = totals(self._redis), stats.latest(self._redis)
        except RedisError:
            yield GaugeMetricFamily("cxone_up", says, 0)
            return
        yield GaugeMetricFamily("cxone_up", says, 1)
        for counter in TOTALS:
            yield _total(counter, counts)
        yield _lag(counts)
        yield from _claims(seen)
        yield from _sinks(seen["sinks"])
        yield _by("cxone_queue_messages", "Messages that wait.", "queue", seen["backlog"])
        says = "How long the next message has waited."
        yield _by("cxone_queue_wait_seconds", says, "queue", seen["waitSeconds"])


def exposition(redis: Redis) -> bytes:
    """Return all of it as text."""
    return generate_latest(Metrics(redis))


def _total(counter: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    name, says, labels = TOTALS[counter]
    family = CounterMetricFamily(name, says, labels=list(labels))
    known = [
        name_of(counter, **dict(zip(labels, values, strict=True)))
        for values in product(*labels.values())
    ]
    counted = [key for key in counts if labels_of(key)[0] == counter]
    for key in dict.fromkeys([*known, *counted]):
        of = labels_of(key)[1]
        family.add_metric([of.get(label, "") for label in labels], counts.get(key, 0))
    return family


def _lag(counts: Mapping[str, int]) -> HistogramMetricFamily:
    so_far = 0
    buckets = []
    for bound, count in lag_buckets(counts):
        so_far += count
        buckets.append(("+Inf" if bound == float("inf") else f"{bound:g}", so_far))
    says = "From an event's receipt to its first final status."
    total = counts.get("lag_milliseconds", 0) / 1000
    return HistogramMetricFamily("cxone_event_lag_seconds", says, buckets=buckets, sum_value=total)


def _claims(seen: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
    interval = seen["sweepIntervalSeconds"]
    yield GaugeMetricFamily("cxone_sweep_interval_seconds", "From sweep to sweep.", interval)
    if seen["at"] is None:
        return  # there was no sweep yet
    for name, says, value in (
        ("last_sweep_timestamp_seconds", "When.", from_rfc3339(seen["at"]).timestamp()),
        ("claims_due", "Events with something left to do.", seen["due"]),
        ("claims_processing", "Those of them that are under way.", seen["processing"]),
        ("claims_overdue", "Those whose time has passed.", seen["overdue"]),
        ("oldest_overdue_seconds", "How long ago, at most.", seen["oldestOverdueSeconds"]),
    ):
        yield GaugeMetricFamily(f"cxone_{name}", f"As the last sweep saw it. {says}", value)


def _sinks(sinks: Mapping[str, Mapping[str, Any]]) -> Iterator[Any]:
    parked = {name: sink["parked"] for name, sink in sinks.items() if sink["parked"] is not None}
    yield _by("cxone_parked_events", "Events that wait until a sink is back.", "sink", parked)
    says = "How often the breaker of a sink has opened."
    opened = CounterMetricFamily("cxone_breaker_opened", says, labels=["sink"])
    state = GaugeMetricFamily(
        "cxone_breaker_state", "1 for the state of a sink's breaker.", labels=["sink", "state"]
    )
    for name, sink in sinks.items():
        opened.add_metric([name], sink["opened"])
        for each in State:
            state.add_metric([name, each.value], each.value == sink["state"])
    yield from (opened, state)


def _by(name: str, says: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, says, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
