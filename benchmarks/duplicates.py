"""How fast duplicates are told, against fresh events; and a flood of nine duplicates in ten.

Rounds of the three kinds take turns. A duplicate must cost one write and no call of a sink.
"""

import argparse

from benchmarks.harness import Bench, Round, ours
from benchmarks.throughput import spread


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command line may say."""
    parser.add_argument("--events", type=int, default=300, help="fresh ones of a round")
    parser.add_argument("--duplicates", type=int, default=1000, help="of a round")
    parser.add_argument("--rounds", type=int, default=4, help="of each kind")


def run(options: argparse.Namespace) -> None:
    """Run the rounds and print what they took."""
    with Bench() as bench:
        system = ours(bench)
        system.pause()
        system.round(100)  # everything is warm
        kinds: dict[str, list[Round]] = {"fresh": [], "duplicates": [], "flood": []}
        for _ in range(options.rounds):
            kinds["fresh"].append(system.round(options.events))
            kinds["duplicates"].append(system.round(0, options.duplicates))
            kinds["flood"].append(system.round(options.duplicates // 9, options.duplicates))
        print(f"emulator of DynamoDB: {bench.emulator}\n")
    print("| kind | events/s | against fresh | CPU ms | DynamoDB writes | all its requests |")
    print("|---|---|---|---|---|---|")
    for kind, rounds in kinds.items():
        ratios = [it.rate / fresh.rate for it, fresh in zip(rounds, kinds["fresh"], strict=True)]
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
