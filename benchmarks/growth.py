"""The effect of a backlog on rate and memory, and of more workers on the rate.

The rate is that of a window some seconds after the start; the rest of the backlog is dropped.
``--backlogs 1000 10000 100000`` takes a few minutes to queue.
"""

import argparse
import os
import time
from typing import NamedTuple

from benchmarks.harness import Bench, Round, start_project
from benchmarks.throughput import spread
from tests.support.envelopes import envelope

#: Seconds before the window.
WARM_UP_SECONDS = 5.0

#: Events that warm a system up.
WARM_UP_EVENTS = 200


class Window(NamedTuple):
    """Events settled per second in a window; and memory at its end, in MB."""

    rate: float
    worker: float
    """The largest process of the workers."""
    workers: float
    """All processes of the workers; shared memory counts for each."""
    redis: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--backlogs", type=int, nargs="*", default=[1_000, 10_000])
    parser.add_argument("--seconds", type=float, default=15.0, help="of the window")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--events", type=int, default=300, help="per round of workers")
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
        system = start_project(bench)
        system.pause()
        system.round(WARM_UP_EVENTS)
        system.feed([envelope() for _ in range(backlog)])
        system.resume()
        time.sleep(WARM_UP_SECONDS)  # then the window begins
        bench.requests.skip()
        begun, settled = time.monotonic(), 0
        while time.monotonic() < begun + seconds and settled < backlog:
            time.sleep(0.1)  # between two checks, until the window is over
            settled += sum("UpdateItem" in line for line in bench.requests.lines())
            if not bench.redis.exists("events", "settle"):
                break  # the backlog ended before the window
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
            number: start_project(
                bench, database, name=f"project-{number}", workers=number, cores=cores
            )
            for database, number in enumerate(options.workers)
        }
        for system in systems.values():
            system.pause()
        for system in systems.values():
            system.round(100)  # warm-up
        rounds: dict[int, list[Round]] = {number: [] for number in systems}
        for _ in range(options.rounds):
            for number, system in systems.items():
                rounds[number].append(system.round(options.events))
    print(f"\n| workers, on {cores} cores | events/s | CPU ms |\n|---|---|---|")
    for number, found in rounds.items():
        cpu = sum(r.cpu for r in found) / sum(r.events for r in found) * 1000
        wrong = "".join(f" {r.wrong}" for r in found)
        print(f"| {number} | {spread([r.rate for r in found], '.1f')} | {cpu:.1f}{wrong} |")
