"""A sink is a file and a registry line: one is made from docs/sinks.md alone, in a copy."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tasks
from tasks.settings.model import variables
from tasks.settings.sink_table import variables_of
from tasks.sinks import SINKS
from tests.support.loopback import answers, sink_that

ROOT = Path(tasks.__file__).parents[1]
PAGE = (ROOT / "docs" / "sinks.md").read_text(encoding="utf-8")

#: Prints what a process of the copy has.
LOOK = """
import json
from tasks.celery import app
from tasks.settings import Role, load
from tasks.settings.model import variables
from tasks.sinks import SINKS

app.loader.import_default_modules()
settings = load({})
try:
    load({}, Role.WORKER)
except Exception as error:
    missing = list(error.problems)
task = app.tasks["deliver.billing"]
print(json.dumps({
    "sinks": list(SINKS),
    "tries": task.max_retries + 1,
    "queue": app.conf.task_routes["deliver.billing"]["queue"],
    "queues": [queue.name for queue in app.conf.task_queues],
    "variables": [v.name for v in variables() if v.name.startswith("BILLING_")],
    "missing": missing,
    "rate": settings.sinks["billing"].policy.rate,
    "completed": settings.wanted_by("completed"),
    "created": settings.wanted_by("created"),
}))
"""


def block(language):
    """The first block of code of a language on the page, and the file that is named before it."""
    step = rf"^\d\. `([^`\n]+)`[^\n]*\n\n   ```{language}\n(.*?)^   ```$"
    found = re.search(step, PAGE, re.DOTALL | re.MULTILINE)
    file, code = found.groups()
    return file, re.sub(r"^   ", "", code, flags=re.MULTILINE)


def apply(diff, text):
    """Apply a diff without line numbers: each of its hunks is found by its lines."""
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines()
        old = "\n".join(line[1:] for line in lines if not line.startswith("+"))
        new = "\n".join(line[1:] for line in lines if not line.startswith("-"))
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project, with the page's file and registry line."""
    copy = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tasks", copy / "tasks", ignore=ignored)
    shutil.copy(ROOT / "celeryconfig.py", copy)
    file, code = block("python")
    assert not (copy / file).exists()
    (copy / file).write_text(code, encoding="utf-8")
    registry, diff = block("diff")
    text = (copy / registry).read_text(encoding="utf-8")
    (copy / registry).write_text(apply(diff, text), encoding="utf-8")
    return copy


def run(copy, *arguments, **settings):
    foreign = {variable.name for variable in variables()}
    clean = {name: value for name, value in os.environ.items() if name not in foreign}
    paths = {"PYTHONPATH": str(copy), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env={**clean, **paths, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_file_and_line_make_task_queue_and_settings(copy):
    found = run(copy, "-c", LOOK)
    assert found["sinks"] == [*SINKS, "billing"]
    assert found["tries"] == 4
    assert found["queue"] == "deliver.billing"
    assert "deliver.billing" in found["queues"]
    suffixes = [v.name.removeprefix("CRM_") for v in variables_of(SINKS["crm"]).values()]
    assert found["variables"] == [f"BILLING_{suffix}" for suffix in suffixes]
    assert any(line.startswith("BILLING_ENDPOINT: missing") for line in found["missing"])
    assert found["rate"] == 20
    assert found["completed"] == [*SINKS, "billing"]
    assert found["created"] == list(SINKS)


def test_new_sink_can_be_tested(copy):
    with sink_that(answers("200 OK")) as sink:
        command = ("-m", "celery", "-A", "tasks", "sinks", "test", "billing", "--json")
        shown = run(copy, *command, BILLING_ENDPOINT=sink.url)
    assert shown["delivered"]
    (request,) = sink.requests
    assert json.loads(request.body).keys() == {"interactionId", "receivedAt"}
    assert request.headers["Idempotency-Key"].endswith(":billing")


@pytest.mark.parametrize("variable", variables_of(SINKS["crm"]).values(), ids=lambda v: v.name)
def test_page_names_every_setting_of_a_sink(variable):
    assert f"_{variable.name.removeprefix('CRM_')}`" in PAGE
