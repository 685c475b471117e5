"""Nodes that are processes keep what pytest-celery promises of its containers."""

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pytest_celery import CeleryTestSetup

from tests.support.nodes import ProcessContainer, python

#: Starts a process that outlives it unless it is ended, and prints its id.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
time.sleep(60)
"""


class Sleeper(ProcessContainer):
    """A process with a child."""

    def is_ready(self) -> bool:
        return "child" in self.logs_since_start()


def test_the_setup_is_one_that_pytest_celery_accepts(celery_setup: CeleryTestSetup) -> None:
    assert celery_setup.ready(control=True, docker=True)
    [answer] = celery_setup.app.control.ping(limit=1, timeout=10)
    assert list(answer) == [celery_setup.worker.hostname()]
    assert celery_setup.worker.version.startswith("5.")
    assert "ready." in celery_setup.worker.logs()
    assert celery_setup.broker.config()["host_url"] == celery_setup.app.conf.broker_url


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Sleeper]:
    """A process that belongs to one test."""
    (tmp_path / "parent.py").write_text(PARENT)
    sleeper = Sleeper("sleeper", [sys.executable, str(tmp_path / "parent.py")], tmp_path, {})
    yield sleeper
    sleeper.teardown()


def test_a_process_is_started_killed_and_started_again(sleeper: Sleeper) -> None:
    assert sleeper.status == "created"
    sleeper.start()
    assert sleeper.ready()
    assert (sleeper.status, len(sleeper.children())) == ("running", 1)
    before, [child] = sleeper.pid, sleeper.children()

    sleeper.restart()
    assert sleeper.pid != before
    assert is_gone(child)
    assert sleeper.logs().count("child") == 2
    assert sleeper.logs_since_start().count("child") == 1

    sleeper.kill("SIGKILL")
    assert (sleeper.status, sleeper.children()) == ("exited", [])


def is_gone(process: psutil.Process) -> bool:
    """Return whether it has ended, reaped or not."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_an_orphaned_process_is_found_and_ended(sleeper: Sleeper) -> None:
    sleeper.start()
    sleeper.ready()
    sleeper.kill_main()
    [orphan] = sleeper.children()
    assert sleeper.status == "exited"
    sleeper.teardown()
    assert is_gone(orphan)
    assert sleeper.children() == []


def test_a_process_that_fails_to_start_is_reported_with_its_log(
    tmp_path: Path,
) -> None:
    broken = Sleeper("broken", python("no_such_module"), tmp_path, {})
    broken.start()
    with pytest.raises(AssertionError, match="No module named no_such_module"):
        broken.ready()
    broken.teardown()
