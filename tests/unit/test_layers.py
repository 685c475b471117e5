"""What import-linter cannot say: who may know how libraries are made inside."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Modules of Celery and kombu that are no public API.
INTERNALS = ("celery._state", "celery.backends", "celery.concurrency", "celery.worker")
INTERNALS += ("kombu.asynchronous", "kombu.transport")


def imported_by(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def using(paths, *names):
    prefixes = tuple(f"{name}." for name in names)
    return {
        str(path.relative_to(ROOT))
        for path in paths
        if any(f"{name}.".startswith(prefixes) for name in imported_by(path))
    }


def test_only_tasks_worker_imports_internals_of_celery():
    users = using(
        [*modules("tasks", "ingest", "dashboard", "embedded"), *ROOT.glob("*.py")], *INTERNALS
    )
    assert users
    assert {Path(user).parent.as_posix() for user in users} == {"tasks/worker"}


@pytest.mark.parametrize("name", ["tasks.claims", "tasks.events", "tasks.recovery.decision"])
def test_logic_is_imported_without_environment(name):
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, env={}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
