"""What ingest accepts: requests a second at 64 connections, and latency at 300 new ones a second.

Compared with a WSGI application that does nothing and one that calls apply_async, under the same
gunicorn. While one server is measured, the others are stopped. Each request opens a connection, as
EventBridge does. During the 300 a second the workers process a backlog.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.harness import THIS_PROJECT, Bench, Process, listens, start_project
from benchmarks.throughput import spread
from embedded.backing_services import free_port
from tests.support.envelopes import envelope
from tests.support.nodes import ROOT, python
from tests.support.system import API_KEY, environment

COMMANDS = {
    THIS_PROJECT: ("ingest",),
    "apply_async": ("benchmarks.peers.wsgi", "apply_async"),
    "noop": ("benchmarks.peers.wsgi", "noop"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--rounds", type=int, default=5, help="per server")
    parser.add_argument("--seconds", type=float, default=5.0, help="per round")
    parser.add_argument("--connections", type=int, default=64, help="at once")
    parser.add_argument("--rate", type=float, default=300.0, help="new connections a second")
    parser.add_argument("--backlog", type=int, default=2000, help="events for the workers")


class Server(NamedTuple):
    """A server and its port."""

    process: Process
    port: int


class _Load(NamedTuple):
    """Requests a second, and the milliseconds of CPU that each took."""

    rate: float
    cpu: float


def run(options: argparse.Namespace) -> None:
    """Run the rounds and print a table of each kind."""
    with Bench() as bench:
        servers = {name: _start(bench, name, n + 1) for n, name in enumerate(COMMANDS)}
        for server in servers.values():
            _load(server, "--connections", options.connections, 1)  # warm-up
            server.process.pause()
        found = _rates(bench, servers, options)
        print(
            f"\n| at {options.connections} connections | requests/s "
            f"| {THIS_PROJECT} is faster by | CPU ms |"
        )
        print("|---|---|---|---|")
        for name, loads in found.items():
            pairs = zip(found[THIS_PROJECT], loads, strict=True)
            ratios = spread([us.rate / it.rate for us, it in pairs], ".2f")
            cpu = spread([load.cpu for load in loads], ".2f")
            print(f"| {name} | {spread([load.rate for load in loads], '.0f')} | {ratios} | {cpu} |")
        system = start_project(bench)
        system.feed([envelope() for _ in range(options.backlog)])
        print(f"\n| at {options.rate:g} new a second, workers busy | p50, ms | p99, ms |")
        print("|---|---|---|")
        for name, runs in _latencies(bench, servers, options).items():
            p50, p99 = ([_percentile(run, share) for run in runs] for share in (0.50, 0.99))
            print(f"| {name} | {spread(p50, '.1f')} | {spread(p99, '.1f')} |")
        print(f"\nOf the backlog, {bench.redis.llen('events')} events were left.")


def _start(bench: Bench, name: str, database: int) -> Server:
    port = free_port()
    settings = bench.settings(0 if name == THIS_PROJECT else database, "ingest")
    env = environment(**settings, INGEST_API_KEYS=API_KEY, INGEST_PORT=str(port))
    process = bench.start(f"ingest-{name}", python(*COMMANDS[name]), env)
    process.wait(lambda: listens(port))
    return Server(process, port)


def _rates(
    bench: Bench, servers: Mapping[str, Server], options: argparse.Namespace
) -> dict[str, list[_Load]]:
    found: dict[str, list[_Load]] = {name: [] for name in servers}
    for _ in range(options.rounds):
        for name, server in servers.items():
            server.process.resume()
            cpu = server.process.cpu()
            taken = len(_load(server, "--connections", options.connections, options.seconds))
            cpu = (server.process.cpu() - cpu) / taken * 1000
            server.process.pause()
            found[name].append(_Load(taken / options.seconds, cpu))
            bench.redis.flushall()  # or the backlog would reach its limit
    return found


def _latencies(
    bench: Bench, servers: Mapping[str, Server], options: argparse.Namespace
) -> dict[str, list[list[float]]]:
    latencies: dict[str, list[list[float]]] = {name: [] for name in servers}
    for _ in range(options.rounds):
        for name, server in servers.items():
            server.process.resume()
            latencies[name].append(_load(server, "--rate", options.rate, options.seconds))
            server.process.pause()
    return latencies


def _load(server: Server, how: str, much: float, seconds: float) -> list[float]:
    """Send requests, all of which must be accepted; return their latencies."""
    words = ("benchmarks.client", str(server.port), str(seconds), how, f"{much:g}")
    client = subprocess.run(
        python(*words), cwd=ROOT, env=environment(), capture_output=True, check=True
    )
    latencies: Mapping[str, list[float]] = json.loads(client.stdout)
    if set(latencies) != {"202"}:
        counts = {status: len(values) for status, values in latencies.items()}
        sys.exit(f"{server.process.name} answered {counts}")
    return latencies["202"]


def _percentile(values: Sequence[float], share: float) -> float:
    return statistics.quantiles(values, n=100)[int(share * 100) - 1]
