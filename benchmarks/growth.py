"""What a backlog does to the rate and to a worker's memory; and what more workers do.

A backlog is not worked off: after some seconds to get going, the rate is that of a window.
``--backlogs 1000 10000 100000`` takes a few minutes to queue.
"""

import argparse
import os
import time
from typing import NamedTuple

from benchmarks.harness import Bench, Round, ours
from benchmarks.throughput import spread
from tests.support.envelopes import envelope

#: Seconds before the window.
LEAD = 5.0

#: Events that warm a system up.
WARM = 200


class Window(NamedTuple):
    """What was seen in a window: events settled a second; and at its end, in MB."""

    rate: float
    worker: float
    """The largest process of the workers."""
    workers: float
    """All of them; what they share counts for each."""
    redis: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command line may say."""
    parser.add_argument("--backlogs", type=int, nargs="*", default=[1_000, 10_000])
    parser.add_argument("--seconds", type=float, default=15.0, help="of the window")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--events", type=int, default=300, help="of a round of workers")
    parser.add_argument("--rounds", type=int, default=3, help="of each number of workers")


def run(options: argparse.Namespace) -> None:
    """Measure both and print a table of each."""
    if options.backlogs:
        print("| backlog | events/s | largest process, MB | all workers, MB | Redis, MB |")
        print("|---|---|---|---|---|")
    for backlog in options.backlogs:
        seen = _window(backlog, options.seconds)
        print(f"| {backlog} | {' | '.join(f'{value:.1f}' for value in seen)} |", flush=True)
    if options.workers:
        _grow_workers(options)


def _window(backlog: int, seconds: float) -> Window:
    with Bench() as bench:
        system = ours(bench)
        system.pause()
        system.round(WARM)
        system.feed([envelope() for _ in range(backlog)])
        system.resume()
        time.sleep(LEAD)  # the window begins once the system has got going
        bench.requests.skip()
        begun, settled = time.monotonic(), 0
        while time.monotonic() < begun + seconds and settled < backlog:
            time.sleep(0.1)  # between two looks, until the window is over
            settled += sum("UpdateItem" in line for line in bench.requests.lines())
            if not bench.redis.exists("events", "settle"):
                break  # it was worked off before the window ended
        took = time.monotonic() - begun
        system.pause()
        sizes = [
            process.memory_info().rss / 1e6
            for part in system.processes
            for process in part.family()
        ]
        redis = bench.redis.info("memory")["used_memory"] / 1e6
        return Window(settled / took, max(sizes), sum(sizes), redis)


def _grow_workers(options: argparse.Namespace) -> None:
    cores = os.cpu_count() or 1
    with Bench() as bench:
        systems = {
            number: ours(bench, database, name=f"ours-{number}", workers=number, cores=cores)
            for database, number in enumerate(options.workers)
        }
        for system in systems.values():
            system.pause()
        for system in systems.values():
            system.round(100)  # everything is warm
        rounds: dict[int, list[Round]] = {number: [] for number in systems}
        for _ in range(options.rounds):
            for number, system in systems.items():
                rounds[number].append(system.round(options.events))
    print(f"\n| workers, on {cores} cores | events/s | CPU ms |\n|---|---|---|")
    for number, found in rounds.items():
        cpu = sum(r.cpu for r in found) / sum(r.events for r in found) * 1000
        wrong = "".join(f" {r.wrong}" for r in found)
        print(f"| {number} | {spread([r.rate for r in found], '.1f')} | {cpu:.1f}{wrong} |")
