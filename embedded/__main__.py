"""``python -m embedded``: run the whole system on this machine, until Ctrl-C."""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

from embedded.console import Console
from embedded.demo.runner import demonstrate
from embedded.demo.samples import envelope, make_sample
from embedded.infrastructure import ProvisionError
from embedded.process_groups import InUseError, sole_owner
from embedded.stack import ROOT, Plan, plan, provision, stages, write_private
from embedded.supervisor import StopRequested, Supervisor, SupervisorError
from tasks.events import EventType
from tasks.settings import Role, load_or_exit, settings


def main() -> int:
    """Parse the command line, run, and return the exit code."""
    arguments = _arguments()
    console = Console(verbose=arguments.verbose)
    data = arguments.data.resolve()
    try:
        with sole_owner(data):
            return _run(arguments, data, console)
    except InUseError as error:
        console.failure(str(error))
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m embedded",
        description="Runs the whole system on this machine, on loopback: Redis, an AWS emulator, "
        "ingest, workers, beat, Flower and sample sinks. Settings in the environment take "
        "precedence.",
    )
    parser.add_argument(
        "--once", action="store_true", help="check the sample events, stop, and exit 0 or 1"
    )
    folder = "folder for all data (default: .embedded)"
    parser.add_argument("--data", type=Path, default=Path(".embedded"), metavar="DIR", help=folder)
    parser.add_argument("--no-samples", action="store_true", help="send no sample events")
    queues = "for the queues events, settle, sweep (default: 1)"
    parser.add_argument("--workers", type=_positive, default=1, metavar="N", help=queues)
    parser.add_argument("--verbose", action="store_true", help="show all output of the processes")
    arguments = parser.parse_args()
    if arguments.once and arguments.no_samples:
        parser.error("--once checks the samples: it cannot be combined with --no-samples")
    return arguments


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("a whole number, at least 1")
    return int(text)


def _run(arguments: argparse.Namespace, data: Path, console: Console) -> int:
    ready = data / "ready"
    ready.unlink(missing_ok=True)
    supervisor = Supervisor(data, ROOT, console)
    supervisor.end_leftovers()
    layout = plan(data, os.environ)
    # One environment for all processes; the demonstration reads it in this one.
    os.environ.clear()
    os.environ.update(layout.environment)
    for role in Role:
        load_or_exit(role)
    write_private(data / "env", layout.to_source())
    try:
        console.heading(f"Starting; data and logs are in {layout.data}")
        if not layout.own_emulator:
            provision(layout)
        for stage in stages(layout, arguments.workers):
            supervisor.start(stage)
        ready.touch()
        if arguments.once:
            return demonstrate(layout, supervisor.watch, console)
        _show_urls(layout, console)
        if not arguments.no_samples:
            demonstrate(layout, supervisor.watch, console)
        _show_next_steps(layout, console)
        supervisor.watch(until=lambda: False)
    except StopRequested:
        return 130 if arguments.once else 0  # an interrupted demonstration shows nothing
    except (SupervisorError, ProvisionError) as error:
        console.failure(str(error), error.lines if isinstance(error, SupervisorError) else ())
        return 1
    finally:
        ready.unlink(missing_ok=True)
        console.heading("Stopping")
        supervisor.stop()
    return 0


def _show_urls(layout: Plan, console: Console) -> None:
    user, _, password = (settings().flower_basic_auth or "").partition(":")
    rows = {
        "dashboard": (f"{layout.flower_url}/overview", f"user {user}, password {password}"),
        "ingest": (f"{layout.ingest_url}/events", f"x-api-key {layout.api_key}"),
    }
    for sink in layout.own_sinks:
        rows[sink] = (f"{layout.endpoint(sink)}/received", "what this sink received")
    if layout.own_cxone:
        rows["cxone"] = (f"{layout.cxone_url}/contacts/asked", "requests for contexts")
    console.heading("Ready")
    for name, (url, note) in rows.items():
        console.write(f"  {name:<18} {url}   {note}")


def _show_next_steps(layout: Plan, console: Console) -> None:
    sample = make_sample(EventType.CREATED, "voice", layout.environment["CURRENT_ENVIRONMENT"])
    event = envelope(sample, layout.environment["EVENT_SOURCE"])
    command = [
        *("curl", "-sS", f"{layout.ingest_url}/events"),
        *("-H", f"x-api-key: {layout.api_key}", "-H", "content-type: application/json"),
        *("-d", json.dumps(event)),
    ]
    source = shlex.quote(str(layout.data / "env"))
    console.heading("Send an event of your own")
    console.write(f"  {shlex.join(command)}")
    console.heading("See what became of it")
    console.write(f"  {layout.flower_url}/event/{event['id']}")
    console.write(f"  . {source} && celery -A tasks claims show {event['id']}")
    console.write("\nRunning. Press Ctrl-C to stop.")


if __name__ == "__main__":
    sys.exit(main())
