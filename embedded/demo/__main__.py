"""The sample events, for a system that runs already: ``python -m embedded.demo``.

Where that system is, the environment says; docker-compose.yml has it so.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from embedded.console import Account
from embedded.demo.samples import demonstrate
from embedded.stack import Plan
from tasks.settings import Role, load_or_exit
from tasks.settings.model import variables
from tasks.sinks import SINKS


def main() -> int:
    """Send the events, and return 0 if each ended as it should."""
    parser = argparse.ArgumentParser(prog="python -m embedded.demo")
    parser.add_argument("--sinks", required=True, metavar="URL", help="where the sample sinks are")
    return demonstrate(_plan(parser.parse_args().sinks), _wait, Account())


def _plan(sinks: str) -> Plan:
    settings = load_or_exit(Role.INGEST)
    environment = {
        **{variable.name: variable.default for variable in variables() if variable.default},
        **os.environ,
        "INGEST_API_KEYS": b",".join(settings.ingest_api_keys or ()).decode(),
    }
    return Plan(
        data=Path(),
        environment=environment,
        own_redis=False,
        own_emulator=False,
        own_cxone=False,
        own_sinks=tuple(
            name
            for name, sink in SINKS.items()
            if environment.get(sink.endpoint_variable, "").startswith(f"{sinks}/")
        ),
    )


def _wait(until: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (done := until()) and time.monotonic() < deadline:
        time.sleep(0.1)  # between two looks
    return done


if __name__ == "__main__":
    sys.exit(main())
