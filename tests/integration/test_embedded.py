"""``python -m embedded`` as a user runs it: started, damaged, killed, started again."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest

from embedded.demo.samples import make_sample
from embedded.process_groups import session_members
from embedded.stack import plan
from embedded.stubs.cxone import Cxone
from embedded.stubs.sinks import SampleSinks
from tasks.events import EventType
from tasks.settings import load
from tasks.settings.model import variables

ROOT = Path(__file__).resolve().parents[2]

#: Settings of another system that the shell of the tests may have.
FOREIGN = {variable.name for variable in variables()} | {"AWS_PROFILE", "NO_COLOR"}


class Run:
    """One ``python -m embedded``."""

    def __init__(self, data: Path, *arguments: str, **environment: str) -> None:
        self.data = data
        self._output = data.with_name(f"{data.name}.{time.monotonic_ns()}.txt")
        clean = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "embedded", "--data", str(data), *arguments],
                cwd=ROOT,
                env={**clean, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until a condition holds, as long as the run lives."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.output()
            assert self.process.poll() is None or condition(), self.output()
            time.sleep(0.05)

    def wait_ready(self) -> "Run":
        self.wait_for((self.data / "ready").exists)
        return self

    def wait_ended(self, seconds: float = 60) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {seconds} s:\n{self.output()}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait_ended()

    def sessions(self) -> dict[str, int]:
        """Each part's session id."""
        recorded = json.loads((self.data / "processes.json").read_text())
        return {entry["name"]: entry["pid"] for entry in recorded}

    def shell(self, command: str) -> str:
        """Run a command in a shell that has sourced the run's settings."""
        return subprocess.run(
            ["sh", "-c", f". {shlex.quote(str(self.data / 'env'))} && {command}"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        ).stdout

    def put_on_bus(self, detail: Mapping[str, Any]) -> str:
        """Put an event on the emulated bus, and return its id."""
        bus = boto3.client(
            "events",
            region_name=self.setting("AWS_REGION"),
            endpoint_url=self.setting("AWS_ENDPOINT_URL"),
            aws_access_key_id=self.setting("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=self.setting("AWS_SECRET_ACCESS_KEY"),
        )
        entry = {"Source": "nice.cxone", "DetailType": "Interaction", "Detail": json.dumps(detail)}
        return str(bus.put_events(Entries=[entry])["Entries"][0]["EventId"])

    def setting(self, name: str) -> str:
        return self.shell(f'printf %s "${name}"')


def alive(sessions: Sequence[int]) -> list[psutil.Process]:
    return [process for sid in sessions for process in session_members(sid)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start runs that end with the test, however it ends."""
    runs: list[Run] = []

    def start(name: str, *arguments: str, **environment: str) -> Run:
        runs.append(Run(tmp_path / name, *arguments, **environment))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.stop()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A running system without samples, shared by the tests that do not stop it."""
    run = Run(tmp_path_factory.mktemp("embedded") / "data", "--no-samples")
    try:
        yield run.wait_ready()
    finally:
        sessions = list(run.sessions().values())
        code = run.stop(signal.SIGINT)
        assert (code, alive(sessions)) == (0, [])


def test_demonstration_passes_and_leaves_nothing_behind(start: Callable[..., Run]) -> None:
    run = start("data", "--once").wait_ready()
    sessions = run.sessions()
    workers = {"worker1", "deliver.analytics", "deliver.crm", "deliver.compliance"}
    servers = {"redis", "aws", "sinks", "cxone", "beat", "flower", "ingest"}
    assert sessions.keys() == servers | workers
    assert run.wait_ended() == 0, run.output()
    assert alive(list(sessions.values())) == []
    assert not (run.data / "ready").exists()
    assert "crm (3 attempts)" in run.output()
    assert 'crm received the created event with {"agentId": ' in run.output()
    assert "  ! deliver.crm " in run.output(), "its circuit breaker opened"
    assert "; crm: without context: CXone has none yet: 404 Not Found" in run.output()
    assert "Every sample reached the expected status" in run.output()


def test_configured_cxone_replaces_the_stub(tmp_path: Path) -> None:
    default = plan(tmp_path, {"CXONE_WAIT_SECONDS": "60"})
    assert default.own_cxone
    assert load(default.environment).cxone
    assert default.environment["CXONE_WAIT_SECONDS"] == "60"
    with Cxone() as cxone:
        configured = plan(tmp_path, cxone.settings())
        assert not configured.own_cxone
        assert cxone.settings().items() <= configured.environment.items()
        assert "CXONE_DISCOVERY_URL" not in configured.environment


def test_failed_demonstration_exits_1_with_the_reason(start: Callable[..., Run]) -> None:
    with SampleSinks() as sinks:
        sinks.behave("crm", "status", status=400)
        run = start("data", "--once", CRM_ENDPOINT=sinks.url("crm"))
        assert run.wait_ended() == 1
    assert "partial_failure, not completed" in run.output()


def test_wrong_setting_is_named_before_anything_starts(start: Callable[..., Run]) -> None:
    run = start("data", INGEST_PORT="http")
    assert run.wait_ended() == 1
    assert "INGEST_PORT: not a whole number" in run.output()
    assert "Starting" not in run.output()


def test_settings_are_private_and_all_ports_on_loopback(system: Run) -> None:
    assert (system.data / "env").stat().st_mode & 0o777 == 0o600
    assert system.data.stat().st_mode & 0o777 == 0o700
    addresses = {
        connection.laddr.ip
        for sid in system.sessions().values()
        for process in session_members(sid)
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def test_printed_commands_work(system: Run) -> None:
    system.wait_for(lambda: "Ctrl-C" in system.output())
    curl = next(line for line in system.output().splitlines() if line.startswith("  curl "))
    show = next(line for line in system.output().splitlines() if " claims show " in line)
    answer = subprocess.run(curl, shell=True, check=True, capture_output=True, text=True).stdout
    assert json.loads(answer)["accepted"] == 1
    key = show.split()[-1]
    system.wait_for(lambda: "completed" in system.shell(f"{show.split('&&')[1]} || true"))

    claim = json.loads(system.shell(f"celery -A tasks claims show {key} --json"))
    assert {sink: d["outcome"] for sink, d in claim["deliveries"].items()} == dict.fromkeys(
        ("analytics", "crm", "compliance"), "delivered"
    )
    with urllib.request.urlopen(f"{system.setting('CRM_ENDPOINT')}/received") as received:
        assert [request["key"] for request in json.load(received)] == [f"{key}:crm"]


def test_second_run_on_the_same_data_is_refused(system: Run) -> None:
    second = Run(system.data, "--once")
    assert second.wait_ended() == 1
    assert f"in use by another run (process {system.process.pid})" in second.output()
    assert (system.data / "ready").exists()


@pytest.mark.parametrize("part", ["worker1", "aws", "redis", "ingest"])
def test_killed_part_restarts_and_events_get_through(system: Run, part: str) -> None:
    before = system.sessions()[part]
    starts = len(re.findall(rf"✓ {part}\b", system.output()))
    os.kill(before, signal.SIGKILL)
    system.wait_for(lambda: len(re.findall(rf"✓ {part}\b", system.output())) > starts)
    assert f"{part:<18} killed by SIGKILL; restarting" in system.output()
    assert alive([before]) == []
    assert system.sessions()[part] != before

    key = system.put_on_bus(make_sample(EventType.ABANDONED, "chat", "prod").detail)
    show = f"celery -A tasks claims show {key} --json || true"
    system.wait_for(lambda: '"status": "completed"' in system.shell(show))


def test_run_beside_another_ends_what_its_crash_left(
    system: Run, start: Callable[..., Run]
) -> None:
    crashed = start("other", "--no-samples").wait_ready()
    assert system.process.poll() is None
    others = list(system.sessions().values())
    left, key = crashed.sessions(), crashed.setting("INGEST_API_KEYS")
    assert crashed.stop(signal.SIGKILL) == -signal.SIGKILL
    os.kill(left["worker1"], signal.SIGKILL)  # what is left of it is the pool, without its leader
    assert len(alive(list(left.values()))) >= len(left) - 1

    again = start("other", "--no-samples")
    again.wait_for(lambda: "that an earlier run left behind" in again.output())
    again.wait_ready()
    assert alive(list(left.values())) == []
    assert len(alive(others)) >= len(others), "the other run's processes are not touched"
    assert again.setting("INGEST_API_KEYS") == key
    sessions = list(again.sessions().values())
    assert again.stop() == 0
    assert alive(sessions) == []


def test_second_signal_kills_at_once(start: Callable[..., Run]) -> None:
    run = start("data", "--no-samples").wait_ready()
    sessions = run.sessions()
    os.kill(sessions["ingest"], signal.SIGSTOP)  # it does not react to SIGTERM
    run.process.send_signal(signal.SIGINT)
    run.wait_for(lambda: "Stopping" in run.output())
    begun = time.monotonic()
    assert run.stop(signal.SIGINT) == 0
    assert time.monotonic() - begun < 5
    assert alive(list(sessions.values())) == []


def test_part_that_cannot_start_ends_the_run(start: Callable[..., Run], tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "redis-server"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho no disk left for me\nexit 3\n")
    fake.chmod(0o755)
    run = start("data", PATH=f"{fake.parent}:{os.environ['PATH']}")
    assert run.wait_ended() == 1
    assert "redis exited with code 3, 3 times in a row\n    no disk left for me" in run.output()
    assert not (run.data / "ready").exists()
    recorded: list[Any] = json.loads((run.data / "processes.json").read_text())
    assert recorded == []
