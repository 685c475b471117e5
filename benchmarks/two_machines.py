"""What a second machine adds, in containers: its workers share Redis and the table with the first.

The CRM answers slowly, so that the limit is the number of concurrent deliveries, not the cores,
which both share here. Each machine has one worker of four processes for the CRM. Needs Docker.
"""

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.throughput import spread
from tests.docker.machine import Machine
from tests.docker.project import Project
from tests.docker.system import ContainerSystem
from tests.support.envelopes import envelope
from tests.support.waiting import eventually

#: Seconds that the CRM takes to answer.
CRM_SECONDS = 0.5

#: Seconds that a round may take.
ROUND_TIMEOUT = 120.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--events", type=int, default=120, help="per round")
    parser.add_argument("--rounds", type=int, default=3, help="per kind")


def run(options: argparse.Namespace) -> None:
    """Run rounds with one and two machines alternately, and print the rates."""
    rates: dict[str, list[float]] = {"one machine": [], "two machines": []}
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-") as folder,
        Project(Path(folder), {}) as project,
        ContainerSystem(project) as system,
    ):
        system.sinks.behave("crm", "slow", seconds=CRM_SECONDS)
        _round(system, 20)  # warm-up
        for number in range(options.rounds):
            rates["one machine"].append(_round(system, options.events))
            with Machine(project, f"there{number}") as there:
                there.start_worker("-Q", "deliver.crm", "-c", "4")
                rates["two machines"].append(_round(system, options.events))
    for name, found in rates.items():
        print(f"{name:<12}  {spread(found, '.1f')} events a second")
    ratios = [b / a for a, b in zip(*rates.values(), strict=True)]
    print(f"two machines are faster by {spread(ratios, '.2f')}")


def _round(system: ContainerSystem, events: int) -> float:
    """Send this number of events at once; return how many a second the CRM received."""
    batch = [envelope() for _ in range(events)]
    keys = {f"{event['id']}:crm" for event in batch}
    begun = time.monotonic()
    assert system.ingest.post(batch).status == 202
    eventually(lambda: keys <= {r.key for r in system.sinks.received("crm")}, ROUND_TIMEOUT)
    return events / (time.monotonic() - begun)
