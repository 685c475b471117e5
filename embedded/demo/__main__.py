"""``python -m embedded.demo``: the demonstration, on a system that is already running.

The environment names that system, as docker-compose.yml sets it.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from embedded.console import Console
from embedded.demo.runner import demonstrate
from embedded.stack import Plan, defaults
from tasks.settings import Role, load_or_exit
from tasks.sinks import SINKS


def main() -> int:
    """Send the events; return 0 if each reached the expected status, else 1."""
    parser = argparse.ArgumentParser(prog="python -m embedded.demo")
    parser.add_argument("--sinks", required=True, metavar="URL", help="where the sample sinks are")
    arguments = parser.parse_args()
    load_or_exit(Role.INGEST)
    return demonstrate(_plan(arguments.sinks), _wait, Console())


def _plan(sinks: str) -> Plan:
    environment = {**defaults(), **os.environ}
    return Plan(
        data=Path(),
        environment=environment,
        own_sinks=tuple(
            name
            for name, sink in SINKS.items()
            if environment.get(sink.endpoint_variable, "").startswith(f"{sinks}/")
        ),
    )


def _wait(until: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (done := until()) and time.monotonic() < deadline:
        time.sleep(0.1)  # between two checks
    return done


if __name__ == "__main__":
    sys.exit(main())
