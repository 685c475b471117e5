"""Processes with wrong settings: they end at once, and report every problem on a line."""

import subprocess

import pytest

from tests.support.nodes import ROOT, python
from tests.support.system import environment
from tests.support.waiting import TIMEOUT

#: Variables that every process reads, with wrong values.
WRONG = {
    "REDIS_URL": "http://user:s3cret@127.0.0.1/",
    "AWS_REGION": "Frankfurt",
    "PROCESSING_TABLE": "a table",
    "METADATA_REGISTRY": "/no/such/file.json",
    "CLAIM_LEASE_SECONDS": "0",
    "INGEST_MAX_BYTES": "2MB",
}

PROCESSES = {
    "worker": (["celery", "-A", "tasks", "worker"], {"CRM_ENDPOINT": "crm.example.com"}),
    "ingest": (["ingest"], {"INGEST_API_KEYS": "ein-schlüssel-mit-s3cret"}),
    "flower": (["celery", "-A", "tasks", "flower"], {"FLOWER_BASIC_AUTH": "s3cret"}),
    "beat": (["celery", "-A", "tasks", "beat"], {}),
    "command line": (["celery", "-A", "tasks", "claims", "list"], {}),
}

#: The variables that a process requires.
REQUIRED = {
    "worker": ["ANALYTICS_ENDPOINT", "CRM_ENDPOINT", "COMPLIANCE_ENDPOINT"],
    "ingest": ["INGEST_API_KEYS"],
    "flower": ["FLOWER_BASIC_AUTH"],
}


def run(arguments: list[str], settings: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        python(*arguments),
        cwd=ROOT,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def assert_names(done: "subprocess.CompletedProcess[str]", names: set[str]) -> None:
    """It failed with a line for each variable, and for no other."""
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    problems = [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")]
    assert {problem.split(":")[0] for problem in problems} == names
    assert len(problems) == len(names)
    assert all("expected" in problem for problem in problems)
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize("process", PROCESSES)
def test_every_wrong_variable_is_reported_at_once(process: str) -> None:
    arguments, more = PROCESSES[process]
    required = set(REQUIRED.get(process, ()))
    assert_names(run(arguments, {**WRONG, **more}), {*WRONG, *more, *required})


@pytest.mark.parametrize("process", REQUIRED)
def test_every_missing_variable_is_reported(process: str) -> None:
    arguments, _ = PROCESSES[process]
    assert_names(run(arguments, {}), set(REQUIRED[process]))


def test_flower_without_authentication_does_not_start() -> None:
    arguments, _ = PROCESSES["flower"]
    settings = {"FLOWER_BASIC_AUTH": "a:b", "FLOWER_UNAUTHENTICATED_API": "true"}
    assert_names(run(arguments, settings), {"FLOWER_UNAUTHENTICATED_API"})
