"""What a second machine adds, in containers: its workers meet the first at Redis and the table.

The CRM answers slowly, so that what limits is how many deliveries wait for it at once, not the
cores that both share here. A machine has one worker of four processes for it. Needs Docker.
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
SLOW = 0.5

#: Seconds that a round may take.
PATIENCE = 120.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command line may say."""
    parser.add_argument("--events", type=int, default=120, help="of a round")
    parser.add_argument("--rounds", type=int, default=3, help="of each kind")


def run(options: argparse.Namespace) -> None:
    """Run the rounds, one and two machines in turn, and print what they took."""
    rates: dict[str, list[float]] = {"one machine": [], "two machines": []}
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-") as folder,
        Project(Path(folder), {}) as project,
        ContainerSystem(project) as system,
    ):
        system.sinks.behave("crm", "slow", seconds=SLOW)
        _round(system, 20)  # everything is warm
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
    """Send so many events at once; return how many a second the CRM got."""
    batch = [envelope() for _ in range(events)]
    keys = {f"{event['id']}:crm" for event in batch}
    begun = time.monotonic()
    assert system.ingest.post(batch).status == 202
    eventually(lambda: keys <= {r.key for r in system.sinks.received("crm")}, PATIENCE)
    return events / (time.monotonic() - begun)
