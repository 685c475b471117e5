"""The containers of pytest-celery's nodes, as processes of this machine instead of Docker's.

A node needs little of its container: its name, id, status and logs, and that it can be killed,
restarted and torn down. ``ProcessContainer`` provides that with a process, so that
``celery_setup.worker.kill()`` in a test means the same with either.
"""

import os
import secrets
import signal as signals
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import psutil
import redis
from pytest_celery import CeleryTestBackend, CeleryTestBroker, CeleryTestWorker
from pytest_docker_tools.exceptions import TimeoutError as NotLoggedError

from embedded.backing_services import (
    HOST,
    emulator_environment,
    find_redis_server,
    free_port,
    redis_command,
)
from embedded.process_groups import kill_session, session_members

from .waiting import TIMEOUT, eventually

ROOT = Path(__file__).resolve().parents[2]

P = TypeVar("P", bound="ProcessContainer")


def python(*arguments: str) -> list[str]:
    """Run a module with the interpreter that runs the tests."""
    return [sys.executable, "-m", *arguments]


class ProcessContainer:
    """A process, and all it starts, behind the members of a Docker container.

    It leads a session of its own: what a container's end takes along, the session's end does.
    """

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        """Describe the process; ``start`` makes it."""
        self.name = name
        self.id = secrets.token_hex(6)
        self._command = [word.replace("{id}", self.id) for word in command]
        self._environment = dict(environment)
        self._log = folder / f"{name}-{self.id}.log"
        self._log.touch()
        self._started_at = 0  # where in the log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def status(self) -> str:
        """Docker's word for it: created, running or exited."""
        if self._process is None:
            return "created"
        return "running" if self._process.poll() is None else "exited"

    @property
    def celeryconfig(self) -> dict[str, Any]:
        """What Celery must know to use it: nothing, unless it is a broker or backend."""
        return {}

    @property
    def pid(self) -> int:
        """The main process, which is also the session."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    def start(self) -> None:
        """Start it, without waiting until it is ready."""
        self._started_at = self._log.stat().st_size
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def logs(self) -> str:
        """All it wrote, over all its restarts."""
        return self._log.read_text(errors="replace")

    def logs_since_start(self) -> str:
        """All it wrote since it was last started."""
        return self._log.read_bytes()[self._started_at :].decode(errors="replace")

    def ready(self) -> bool:
        """Wait until it can be used."""
        eventually(self._is_ready_or_dead, what=f"{self.name} is ready")
        assert self.status == "running", f"{self.name} ended:\n{self.logs_since_start()}"
        return True

    def _is_ready_or_dead(self) -> bool:
        return self.status != "running" or self.is_ready()

    def is_ready(self) -> bool:
        """Whether it can be used now."""
        return True

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal, as ``docker kill`` does: SIGKILL to all, others to the main process."""
        number = signals.Signals[signal] if isinstance(signal, str) else signals.Signals(signal)
        if number is signals.SIGKILL:
            self._end()
        else:
            os.kill(self.pid, number)

    def kill_main(self) -> None:
        """SIGKILL the main process alone; what it started lives on."""
        os.kill(self.pid, signals.SIGKILL)
        self._wait()

    def children(self) -> list[psutil.Process]:
        """The processes that it started and that are alive, whether or not it is itself."""
        return [process for process in session_members(self.pid) if process.pid != self.pid]

    def pause(self) -> None:
        """Freeze it: connections to it are accepted, and never answered."""
        os.killpg(self.pid, signals.SIGSTOP)

    def unpause(self) -> None:
        """Let it go on where it was."""
        os.killpg(self.pid, signals.SIGCONT)

    def stop(self, timeout: float = TIMEOUT) -> int:
        """Send SIGTERM, then SIGKILL to what is left; return its exit code."""
        if self.status == "running":
            os.kill(self.pid, signals.SIGTERM)
            try:
                self._wait(timeout)
            finally:
                self._end()
        return self._wait()

    def restart(self, timeout: float = TIMEOUT) -> None:
        """Stop and start it, and wait until it is ready."""
        if self.status != "created":
            self.stop(timeout)
        self._end()
        self.start()
        self.ready()

    def restart_unless_running(self) -> None:
        """Start it again if a test has ended it, and wait until it is ready."""
        if self.status != "running":
            self.restart()

    def reload(self) -> None:
        """Do nothing: ``status`` is never out of date."""

    def teardown(self) -> None:
        """End it, and all that it started."""
        if "COVERAGE_PROCESS_CONFIG" in os.environ and self.status == "running":
            with suppress(subprocess.TimeoutExpired):
                self.stop(5)  # a process that is measured writes its data as it ends
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            kill_session(self.pid)
            self._wait()

    def _wait(self, timeout: float = TIMEOUT) -> int:
        assert self._process is not None
        return self._process.wait(timeout)


@contextmanager
def running(part: P) -> Iterator[P]:
    """Start a part, wait until it can be used, and end it in the end."""
    try:
        part.start()
        part.ready()
        yield part
    finally:
        part.teardown()


class RedisServer(ProcessContainer):
    """A Redis server, which tests reach by ``client``."""

    client: redis.Redis

    def is_ready(self) -> bool:
        """It answers, and has read its file."""
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def teardown(self) -> None:
        """End it, and close the client."""
        self.client.close()
        super().teardown()


class RedisContainer(RedisServer):
    """Redis, with every write on the disk before it is acknowledged, as in production."""

    def __init__(self, folder: Path, **options: str) -> None:
        """Use a free port, and keep it over restarts; options go before those here."""
        server = find_redis_server()
        assert server is not None, "no redis-server"
        self.port = free_port()
        self.url = f"redis://{HOST}:{self.port}/0"
        data = folder / f"redis-{self.port}"
        data.mkdir()
        command = redis_command(server, self.port, data, **options)
        super().__init__("redis", command, folder, os.environ)
        self.client = redis.Redis.from_url(self.url, decode_responses=True)

    @property
    def celeryconfig(self) -> dict[str, Any]:
        """Where workers and tests find it."""
        return {
            "url": self.url,
            "host_url": self.url,
            "hostname": HOST,
            "port": self.port,
            "vhost": "0",
        }


class EmulatorContainer(ProcessContainer):
    """The AWS emulator."""

    def __init__(self, folder: Path) -> None:
        """Use a free port."""
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        environment = {**os.environ, **emulator_environment(self.port, folder)}
        super().__init__("aws", python("ministack"), folder, environment)

    def is_ready(self) -> bool:
        """It reports that it is ready."""
        with closing(HTTPConnection(HOST, self.port, timeout=1)) as connection:
            try:
                connection.request("GET", "/_ministack/ready")
                return connection.getresponse().status == HTTPStatus.OK
            except (OSError, HTTPException):
                return False


class WorkerContainer(ProcessContainer):
    """A Celery worker with two pool processes, as the embedded system starts it."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        name: str = "worker",
        more: Sequence[str] = (),
    ) -> None:
        """Name the node after the container, as Docker's host name would; add options."""
        options = ["-n", f"{name}@{{id}}", "--concurrency", "2", "-l", self.log_level()]
        alone = ["--without-gossip", "--without-mingle"]
        command = python("celery", "-A", "tasks", "worker", *options, *alone, *more)
        super().__init__(name, command, folder, environment)

    def is_ready(self) -> bool:
        """It takes tasks."""
        return " ready." in self.logs_since_start()

    def worker_name(self) -> str:
        """The node's name, before the @."""
        return self.name

    @staticmethod
    def worker_queue() -> str:
        """It takes from every queue; events come in by this one."""
        return "events"

    @staticmethod
    def log_level() -> str:
        """As in production."""
        return "INFO"

    @staticmethod
    def version() -> str:
        """Celery's."""
        return version("celery")


class BeatContainer(ProcessContainer):
    """Celery beat, which sends the sweep."""

    def __init__(self, folder: Path, environment: Mapping[str, str], name: str = "beat") -> None:
        """Keep its schedule in ``folder``."""
        options = ["-s", str(folder / f"{name}-schedule"), "--pidfile=", "-l", "INFO"]
        command = python("celery", "-A", "tasks", "beat", *options)
        super().__init__(name, command, folder, environment)

    def is_ready(self) -> bool:
        """It has started."""
        return "beat: Starting" in self.logs_since_start()


class _Node:
    """Polls for a log line more often than the once a second of pytest-celery's nodes."""

    def wait_for_log(self, log: str, message: str = "", timeout: float = TIMEOUT) -> None:
        """Wait until the node logs something."""
        try:
            eventually(lambda: log in self.logs(), timeout, message or f"{self.name()} logs {log}")
        except AssertionError as error:
            raise NotLoggedError(str(error)) from None


class Worker(_Node, CeleryTestWorker):
    """A worker as tests see it: ``celery_setup.worker``."""

    container: WorkerContainer


class Broker(_Node, CeleryTestBroker):
    """Redis as the broker: ``celery_setup.broker``."""

    container: RedisContainer


class Backend(_Node, CeleryTestBackend):
    """The same Redis, as result backend."""

    container: RedisContainer
