"""What the terminal shows of the output of a process."""

import io

import pytest

from embedded.console import Console


def shown(line: str, *, verbose: bool = False) -> str:
    stream = io.StringIO()
    Console(stream, verbose=verbose).process_output("worker1", line)
    return stream.getvalue()


@pytest.mark.parametrize(
    "line",
    [
        "[2026-11-28 00:23:30,257: ERROR/ForkPoolWorker-1] it failed [twice]",
        "[2026-11-28 00:23:30 +0000] [17] [WARNING] it failed [twice]",
    ],
)
def test_warning_is_shown_without_its_prefix(line):
    assert shown(line) == "  ! worker1            it failed [twice]\n"


@pytest.mark.parametrize(
    "line", ["[2026-11-28 00:23:30,257: INFO/MainProcess] ready.", "# WARNING Memory overcommit"]
)
def test_other_output_is_shown_only_if_verbose(line):
    assert shown(line) == ""
    assert shown(line, verbose=True) == f"worker1            | {line}\n"


def test_prefix_without_a_message_is_shown():
    assert shown("[ERROR]") == "  ! worker1            [ERROR]\n"
