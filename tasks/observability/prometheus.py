"""The metrics for Prometheus: those of all processes together, from Redis.

Every process that is scraped returns the same numbers, so one of them is enough.
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

#: The content type of ``exposition``.
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Total(NamedTuple):
    """A counter: its name without ``_total``, its help text, and its labels.

    Label values that are known beforehand are exposed from the start, at 0: else Prometheus would
    miss their first increase.
    """

    name: str
    help: str
    labels: Mapping[str, Sequence[str]] = {}


_ENDS = [outcome.value for outcome in Outcome if outcome is not Outcome.PENDING]
_FINAL = [status.value for status in Status if status is not Status.PROCESSING]
_CODES = ["400", "401", "404", "405", "408", "413", "503", "record"]

#: By the name that ``tasks/counters.py`` counts under.
TOTALS: Mapping[str, Total] = {
    "accepted": Total("cxone_events_accepted", "Events that ingest accepted."),
    "ignored": Total("cxone_events_ignored", "Events of another source, which ingest ignored."),
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
        "Claims taken over: 'overdue' was not settled by its holder, 'settled' is a "
        "delayed retry, 'parked' waited for its sink.",
        {"of": ["overdue", "settled", "parked"]},
    ),
}


class Metrics(Collector):
    """The metrics of a scrape."""

    def __init__(self, redis: Redis) -> None:
        """Read it from ``redis``."""
        self._redis = redis

    def collect(self) -> Iterator[Any]:
        """Yield every metric; where Redis does not answer, only ``cxone_up``."""
        help_text = "Whether Redis answered; without it there are no other metrics."
        try:
            counts, snapshot = totals(self._redis), stats.latest(self._redis)
        except RedisError:
            yield GaugeMetricFamily("cxone_up", help_text, 0)
            return
        yield GaugeMetricFamily("cxone_up", help_text, 1)
        for counter in TOTALS:
            yield _total(counter, counts)
        yield _lag(counts)
        yield from _claims(snapshot)
        yield from _sinks(snapshot["sinks"])
        yield _by("cxone_queue_messages", "Messages that wait.", "queue", snapshot["backlog"])
        help_text = "How long the next message has waited."
        yield _by("cxone_queue_wait_seconds", help_text, "queue", snapshot["waitSeconds"])


def exposition(redis: Redis) -> bytes:
    """Return every metric as text."""
    return generate_latest(Metrics(redis))


def _total(counter: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    name, help_text, labels = TOTALS[counter]
    family = CounterMetricFamily(name, help_text, labels=list(labels))
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
    buckets = [
        ("+Inf" if bound == float("inf") else f"{bound:g}", count)
        for bound, count in lag_buckets(counts)
    ]
    help_text = "From an event's receipt to its first final status."
    total = counts.get("lag_milliseconds", 0) / 1000
    return HistogramMetricFamily(
        "cxone_event_lag_seconds", help_text, buckets=buckets, sum_value=total
    )


def _claims(snapshot: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
    interval = snapshot["sweepIntervalSeconds"]
    yield GaugeMetricFamily("cxone_sweep_interval_seconds", "From sweep to sweep.", interval)
    if snapshot["at"] is None:
        return  # no sweep yet
    for name, help_text, value in (
        ("last_sweep_timestamp_seconds", "When.", from_rfc3339(snapshot["at"]).timestamp()),
        ("claims_due", "Events with something pending.", snapshot["due"]),
        ("claims_processing", "Those of them that are in progress.", snapshot["processing"]),
        ("claims_overdue", "Those whose time has passed.", snapshot["overdue"]),
        ("oldest_overdue_seconds", "How long ago, at most.", snapshot["oldestOverdueSeconds"]),
    ):
        yield GaugeMetricFamily(f"cxone_{name}", f"At the last sweep. {help_text}", value)


def _sinks(sinks: Mapping[str, Mapping[str, Any]]) -> Iterator[Any]:
    parked = {name: sink["parked"] for name, sink in sinks.items() if sink["parked"] is not None}
    yield _by("cxone_parked_events", "Events that wait until a sink is back.", "sink", parked)
    help_text = "How often the breaker of a sink has opened."
    opened = CounterMetricFamily("cxone_breaker_opened", help_text, labels=["sink"])
    state = GaugeMetricFamily(
        "cxone_breaker_state", "1 for the state of a sink's breaker.", labels=["sink", "state"]
    )
    for name, sink in sinks.items():
        opened.add_metric([name], sink["opened"])
        for each in State:
            state.add_metric([name, each.value], each.value == sink["state"])
    yield from (opened, state)


def _by(name: str, help_text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
