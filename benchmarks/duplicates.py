"""How fast duplicates are recognised, compared with new events; and nine duplicates in ten.

Rounds of the three kinds alternate. A duplicate must cost one write and no call to a sink.
"""

import argparse

from benchmarks.harness import Bench, Round, start_project
from benchmarks.throughput import spread


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--events", type=int, default=300, help="new events per round")
    parser.add_argument("--duplicates", type=int, default=1000, help="per round")
    parser.add_argument("--rounds", type=int, default=4, help="of each kind")


def run(options: argparse.Namespace) -> None:
    """Run the rounds and print a table."""
    with Bench() as bench:
        system = start_project(bench)
        system.pause()
        system.round(100)  # warm-up
        kinds: dict[str, list[Round]] = {"new": [], "duplicates": [], "flood": []}
        for _ in range(options.rounds):
            kinds["new"].append(system.round(options.events))
            kinds["duplicates"].append(system.round(0, options.duplicates))
            kinds["flood"].append(system.round(options.duplicates // 9, options.duplicates))
        print(f"emulator of DynamoDB: {bench.emulator}\n")
    print("| kind | events/s | compared with new | CPU ms | DynamoDB writes | all its requests |")
    print("|---|---|---|---|---|---|")
    for kind, rounds in kinds.items():
        ratios = [it.rate / new.rate for it, new in zip(rounds, kinds["new"], strict=True)]
        events = sum(r.events for r in rounds)
        writes = sum(r.writes for r in rounds)
        cells = [
            kind,
            spread([r.rate for r in rounds], ".1f"),
            spread(ratios, ".1f"),
            f"{sum(r.cpu for r in rounds) / events * 1000:.1f}",
            f"{writes / events:.2f}",
            f"{sum(r.requests.total() for r in rounds) / events:.2f}",
            *(r.wrong for r in rounds if r.wrong),
        ]
        print(f"| {' | '.join(cells)} |")
