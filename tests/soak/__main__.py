"""``python -m tests.soak``: see ``docs/reliability.md``."""

import argparse
import math
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from embedded.stubs.sinks import SampleSinks
from tests.support.nodes import EmulatorContainer, running
from tests.support.system import System

from .ledger import Ledger
from .run import CONCURRENCY, SETTINGS, Options, Soak


def main() -> int:
    """Run with the options of the command line; return the exit code."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="soak-"), f"seed{options.seed}")
    folder.mkdir()
    print(f"seed {options.seed}; logs in {folder}", flush=True)
    if not _soak(folder, options):
        print(f"logs kept in {folder}")
        return 1
    shutil.rmtree(folder.parent)
    return 0


def _soak(folder: Path, options: Options) -> bool:
    ledger = Ledger()
    with ExitStack() as stack:
        aws = stack.enter_context(running(EmulatorContainer(folder)))
        sinks = stack.enter_context(SampleSinks(listener=ledger.note))
        settings = {**SETTINGS, "TMPDIR": str(folder)}  # killed processes leave files there
        options = {"beat": True, "listen": False, "worker_options": CONCURRENCY}
        system = System(folder, aws_url=aws.url, sinks=sinks, **options, **settings)
        stack.enter_context(system)
        soak = Soak(system, ledger, options, lambda line: print(line, flush=True))
        soak.run()
        print("\n".join(soak.report()), flush=True)
        return soak.holds


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def _options() -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Steady load with random kills and faults; exits 1 if an event is lost or "
        "stuck. It ends with --events or --minutes, whichever comes first.",
    )
    parser.add_argument("--events", type=int, metavar="N", help="(2000, unless --minutes is given)")
    parser.add_argument("--minutes", type=_positive, metavar="M")
    parser.add_argument(
        "--rate", type=_positive, default=20, metavar="R", help="events a second (20)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="what goes wrong when (1)")
    parser.add_argument(
        "--pause", type=_positive, default=6, metavar="P", help="seconds between two troubles (6)"
    )
    arguments = parser.parse_args()
    events = arguments.events
    if events is None and arguments.minutes is None:
        events = 2000
    return Options(
        seed=arguments.seed,
        events=events,
        rate=arguments.rate,
        seconds=arguments.minutes * 60 if arguments.minutes else float("inf"),
        pause=arguments.pause,
    )


if __name__ == "__main__":
    sys.exit(main())
