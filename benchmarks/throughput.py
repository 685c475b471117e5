"""Events a second, and the cost of each, compared with alternatives.

Systems alternate round by round with the same kind of events; a ratio compares the same round.
Only workers are measured: neither ingest, beat nor Flower run. Redis commands are those of INFO
commandstats, which include the calls of scripts and transactions.
"""

import argparse
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from benchmarks.harness import (
    CORES,
    PEERS,
    SLOW_SINK_MS,
    THIS_PROJECT,
    Bench,
    Round,
    start_peer,
    start_project,
)

Rounds = Mapping[str, Sequence[Round]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--events", type=int, default=300, help="per round")
    parser.add_argument("--rounds", type=int, default=5, help="per system")
    parser.add_argument("--sinks", nargs="+", choices=("fast", "slow"), default=["fast", "slow"])
    parser.add_argument(
        "--peers", nargs="*", choices=list(PEERS), default=list(PEERS), metavar="NAME"
    )
    parser.add_argument("--commands", action="store_true", help="also list the Redis commands")


def run(options: argparse.Namespace) -> None:
    """Run the rounds and print a table per kind of sinks."""
    for sinks in options.sinks:
        with Bench() as bench:
            rounds = _measure(bench, sinks, options.peers, options.events, options.rounds)
            speed = "immediately" if sinks == "fast" else f"after {SLOW_SINK_MS} ms"
            print(
                f"\nSinks answer {speed}. {options.rounds} rounds of {options.events} events;"
                f" {CORES} cores; emulator of DynamoDB: {bench.emulator}.\n"
            )
        _report(rounds)
        if options.commands:
            _list_commands(rounds)


def _measure(
    bench: Bench, sinks: str, peers: Sequence[str], events: int, rounds: int
) -> dict[str, list[Round]]:
    systems = []
    for database, name in enumerate([THIS_PROJECT, *peers]):
        system = (
            start_project(bench, database, sinks)
            if name == THIS_PROJECT
            else start_peer(bench, name, database, sinks)
        )
        system.pause()
        systems.append(system)
    for system in systems:
        system.round(min(events, 100))  # warm-up
    found: dict[str, list[Round]] = {system.name: [] for system in systems}
    for number in range(rounds):
        for system in systems:
            done = system.round(events)
            found[system.name].append(done)
            each = done.cpu / done.events * 1000
            result = f"{done.rate:.1f} events/s, {each:.1f} ms of CPU each {done.wrong}"
            print(f"round {number + 1}, {system.name}: {result}", flush=True)
    return found


def _report(rounds: Rounds) -> None:
    print(
        f"| system | events/s | {THIS_PROJECT} is faster by | CPU ms | cores busy | Redis commands "
        "| round trips | DynamoDB writes | reads | KB |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for name, all_of_it in rounds.items():
        valid = [r for r in all_of_it if not r.wrong]
        if not valid:
            print(f"| {name} | invalid: {all_of_it[0].wrong} |")
            continue
        pairs = zip(rounds[THIS_PROJECT], all_of_it, strict=True)
        ratios = [us.rate / it.rate for us, it in pairs if not us.wrong and not it.wrong]
        events = sum(r.events for r in valid)
        requests = sum(r.requests.total() for r in valid)
        writes = sum(r.writes for r in valid)
        cells = [
            name + (f" ({len(all_of_it) - len(valid)} invalid)" if valid != all_of_it else ""),
            spread([r.rate for r in valid], ".1f"),
            spread(ratios, ".2f") if name != THIS_PROJECT and ratios else "–",
            f"{sum(r.cpu for r in valid) / events * 1000:.1f}",
            f"{sum(r.cpu for r in valid) / sum(r.seconds for r in valid):.2f}",
            f"{sum(r.commands.total() for r in valid) / events:.1f}",
            f"{sum(r.reads for r in valid) / events:.1f}",
            f"{writes / events:.2f}",
            f"{(requests - writes) / events:.2f}",
            f"{sum(r.bytes for r in valid) / events / 1000:.1f}",
        ]
        print(f"| {' | '.join(cells)} |")
    foreign = [r.foreign for all_of_it in rounds.values() for r in all_of_it]
    print(f"\nOther processes of this machine kept {spread(foreign, '.2f')} cores busy.")


def spread(values: Sequence[float], form: str) -> str:
    """Return the median, and the minimum and maximum."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):{form}} ({low:{form}}–{high:{form}})"


def _list_commands(rounds: Rounds) -> None:
    for name, all_of_it in rounds.items():
        events = sum(r.events for r in all_of_it)
        commands = sum((r.commands for r in all_of_it), Counter[str]())
        listed = ", ".join(f"{c} {n / events:.1f}" for c, n in commands.most_common())
        print(f"\n{name}: {listed}")
