"""``python -m benchmarks NAME``: run one benchmark."""

import argparse
import signal
import sys
from types import ModuleType

from benchmarks import duplicates, growth, ingest, one_sink_down, throughput, two_machines
from benchmarks.harness import NotInstalledError

MODULES: dict[str, ModuleType] = {
    "throughput": throughput,
    "ingest": ingest,
    "duplicates": duplicates,
    "growth": growth,
    "one_sink_down": one_sink_down,
    "two_machines": two_machines,
}


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(required=True, metavar="NAME")
    for name, module in MODULES.items():
        text = str(module.__doc__)
        command = commands.add_parser(name, help=text.partition("\n")[0], description=text)
        module.add_options(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and run the clean-up
    try:
        options.run(options)
    except NotInstalledError as error:
        sys.exit(f"not installed: {error}")


if __name__ == "__main__":
    main()
