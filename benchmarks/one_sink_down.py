"""What the other sinks lose while one is down.

Rounds with the CRM up and down alternate. In each, a batch of events is accepted, and the clock
runs until analytics and compliance have received all of them. While the CRM is down its circuit
breaker is open, as it is for all but the first moments of an outage.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.throughput import spread
from embedded.stubs.sinks import SampleSinks
from tests.support.envelopes import envelope
from tests.support.nodes import EmulatorContainer, running
from tests.support.system import System
from tests.support.waiting import eventually

#: Seconds that a round may take.
ROUND_TIMEOUT = 300.0

SETTINGS: dict[str, Any] = {
    "CRM_BREAKER_FAILURES": "5",
    "CRM_BREAKER_SECONDS": "5",
    "SWEEP_INTERVAL_SECONDS": "5",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--events", type=int, default=300, help="per round")
    parser.add_argument("--rounds", type=int, default=4, help="per kind")


def run(options: argparse.Namespace) -> None:
    """Run the rounds and print the rates."""
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-") as place,
        running(EmulatorContainer(folder := _folder(place))) as aws,
        SampleSinks() as sinks,
        System(folder, aws_url=aws.url, sinks=sinks, beat=True, listen=False, **SETTINGS) as system,
        running(system.make_worker("crm", "-Q", "deliver.crm")),
    ):
        _round(system, options.events)  # warm-up
        rates: dict[str, list[float]] = {"up": [], "down": []}
        for _ in range(options.rounds):
            rates["up"].append(_round(system, options.events))
            _take_crm_down(system)
            rates["down"].append(_round(system, options.events))
            _report(system)
            _bring_crm_back(system)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        print(f"crm {name:<4}  {spread(values, '.1f')} events a second")
    print(f"the others keep {medians['down'] / medians['up']:.0%}")


def _folder(place: str) -> Path:
    folder = Path(place, "one-sink-down")
    folder.mkdir()
    return folder


def _round(system: System, events: int) -> float:
    """Send this number of events; return how many a second the two healthy sinks received."""
    batch = [envelope() for _ in range(events)]
    keys = {f"{event['id']}:{sink}" for event in batch for sink in ("analytics", "compliance")}
    begun = time.monotonic()
    for start in range(0, events, 100):
        answer = system.ingest.post(batch[start : start + 100])
        assert answer.status == 202, answer
    eventually(lambda: keys <= _received(system), ROUND_TIMEOUT, what="the healthy sinks have all")
    took = time.monotonic() - begun
    eventually(lambda: not any(system.broker.client.llen(q) for q in QUEUES), ROUND_TIMEOUT)
    return events / took


QUEUES = ("events", "settle", "deliver.analytics", "deliver.crm", "deliver.compliance")


def _received(system: System) -> set[str]:
    return {r.key for sink in ("analytics", "compliance") for r in system.sinks.received(sink)}


def _take_crm_down(system: System) -> None:
    system.sinks.behave("crm", "status", status=503)
    system.ingest.post([envelope() for _ in range(10)])  # more than open the breaker
    redis = system.broker.client
    eventually(
        lambda: redis.hget("breaker.crm", "open_until"), ROUND_TIMEOUT, what="its breaker opens"
    )


def _bring_crm_back(system: System) -> None:
    system.sinks.behave("crm")
    eventually(lambda: not system.due(), ROUND_TIMEOUT, what="what was parked is delivered")


def _report(system: System) -> None:
    memory = system.broker.client.info("memory")["used_memory_human"]
    print(f"crm down: {len(system.due())} claims due, Redis holds {memory}", flush=True)
