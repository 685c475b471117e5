"""``python -m embedded``: run the whole system on this machine, until Ctrl-C."""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

from embedded.console import Account
from embedded.infrastructure import ProvisionError
from embedded.demo.samples import demonstrate, envelope, make_sample
from embedded.process_groups import InUseError, sole_owner
from embedded.stack import ROOT, Plan, plan, provision, stages, write_private
from embedded.supervisor import StopRequested, Supervisor, SupervisorError
from tasks.events import EventType
from tasks.settings import Role, load_or_exit, settings


def main() -> int:
    """Run as the command line says; return the exit code."""
    arguments = _arguments()
    account = Account(verbose=arguments.verbose)
    data = arguments.data.resolve()
    try:
        with sole_owner(data):
            return _run(arguments, data, account)
    except InUseError as error:
        account.failure(str(error))
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m embedded",
        description="Runs the whole system on this machine, on loopback: Redis, an AWS emulator, "
        "ingest, workers, beat, Flower and sample sinks. Settings in the environment win.",
    )
    parser.add_argument(
        "--once", action="store_true", help="check the sample events, stop, and exit 0 or 1"
    )
    parser.add_argument(
        "--data", type=Path, default=Path(".embedded"), metavar="DIR", help="where all data is kept"
    )
    parser.add_argument("--no-samples", action="store_true", help="send no sample events")
    parser.add_argument("--workers", type=_positive, default=1, metavar="N", help="(default: 1)")
    parser.add_argument("--verbose", action="store_true", help="show all that the processes log")
    arguments = parser.parse_args()
    if arguments.once and arguments.no_samples:
        parser.error("--once is for the samples; with --no-samples there is nothing to do")
    return arguments


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("a whole number, at least 1")
    return int(text)


def _run(arguments: argparse.Namespace, data: Path, account: Account) -> int:
    ready = data / "ready"
    ready.unlink(missing_ok=True)
    supervisor = Supervisor(data, ROOT, account)
    supervisor.end_leftovers()
    layout = plan(data, os.environ)
    # One environment for all: our own look into the table needs it, too.
    os.environ.clear()
    os.environ.update(layout.environment)
    for role in Role:
        load_or_exit(role)
    write_private(data / "env", layout.to_source())
    try:
        _start(supervisor, layout, arguments.workers, account)
        ready.touch()
        if arguments.once:
            return demonstrate(layout, supervisor.watch, account)
        _tell_where(layout, account)
        if not arguments.no_samples:
            demonstrate(layout, supervisor.watch, account)
        _tell_how(layout, account)
        supervisor.watch(until=lambda: False)
    except StopRequested:
        return 130 if arguments.once else 0  # a demonstration that was broken off shows nothing
    except SupervisorError as error:
        account.failure(str(error), error.lines)
        return 1
    except ProvisionError as error:
        account.failure(str(error))
        return 1
    finally:
        ready.unlink(missing_ok=True)
        account.heading("Stopping")
        supervisor.stop()
    return 0


def _start(supervisor: Supervisor, layout: Plan, workers: int, account: Account) -> None:
    account.heading(f"Starting, with data and logs in {layout.data}")
    if not layout.own_emulator:
        provision(layout)
    for stage in stages(layout, workers):
        supervisor.start(stage)


def _tell_where(layout: Plan, account: Account) -> None:
    user, _, password = (settings().flower_basic_auth or "").partition(":")
    account.heading("Ready")
    account.say(f"  {'Flower':<18} {layout.flower_url}   user {user}, password {password}")
    account.say(f"  {'ingest':<18} {layout.ingest_url}/events   x-api-key {layout.api_key}")
    for sink in layout.own_sinks:
        account.say(f"  {sink:<18} {layout.endpoint(sink)}/received")
    if layout.own_cxone:
        account.say(f"  {'cxone':<18} {layout.cxone_url}/contacts/asked")


def _tell_how(layout: Plan, account: Account) -> None:
    sample = make_sample(EventType.CREATED, "voice", layout.environment["CURRENT_ENVIRONMENT"])
    event = envelope(sample, layout.environment["EVENT_SOURCE"])
    command = [
        *("curl", "-sS", f"{layout.ingest_url}/events"),
        *("-H", f"x-api-key: {layout.api_key}", "-H", "content-type: application/json"),
        *("-d", json.dumps(event)),
    ]
    source = shlex.quote(str(layout.data / "env"))
    account.heading("Send an event of your own")
    account.say(f"  {shlex.join(command)}")
    account.say(f"  . {source} && celery -A tasks claims show {event['id']}")
    account.say(f"  {layout.flower_url}/tasks, and search for {event['id']}")
    account.say("\nRunning. Ctrl-C stops it all.")


if __name__ == "__main__":
    sys.exit(main())
