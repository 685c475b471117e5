"""A container of the project, with the members that pytest-celery's nodes need."""

from collections.abc import Mapping, Sequence
from typing import Any

import redis
from docker.models.containers import Container

from tests.support.waiting import eventually

#: Seconds that starting something may take which normally takes a few.
TIMEOUT = 120.0


class Part:
    """A container that Compose made, to be killed, stopped, cut off and started again."""

    #: What it logs when it can be used: its health is looked at too rarely to wait for.
    ready_when = ""

    def __init__(self, container: Container) -> None:
        """Wrap a container that was started."""
        self.container = container
        self._read = 0  # how much of its log is from before its last start

    @property
    def name(self) -> str:
        """Its name."""
        name: str = self.container.name
        return name

    @property
    def id(self) -> str:
        """Its id, whose start is its host name."""
        identity: str = self.container.id
        return identity

    @property
    def status(self) -> str:
        """Its status, as the engine has it."""
        self.container.reload()
        status: str = self.container.status
        return status

    @property
    def celeryconfig(self) -> Mapping[str, Any]:
        """What Celery must know to use it: nothing, unless it is a broker or backend."""
        return {}

    def reload(self) -> None:
        """Do nothing: ``status`` is never out of date."""

    def teardown(self) -> None:
        """Do nothing: the project removes it."""

    def logs(self) -> str:
        """All it wrote, over all its restarts."""
        text: str = self.container.logs().decode(errors="replace")
        return text

    def execute(self, *command: str) -> str:
        """Run a command in it, which must succeed; return its output."""
        code, output = self.container.exec_run(list(command))
        text: str = output.decode()
        assert code == 0, text
        return text

    def children(self) -> Sequence[Sequence[str]]:
        """The processes in it."""
        if self.status != "running":
            return []
        processes: Sequence[Sequence[str]] = self.container.top()["Processes"]
        return processes

    def ready(self) -> bool:
        """Wait until it can be used."""
        eventually(self.is_ready, TIMEOUT, what=f"{self.name} is ready")
        return True

    def is_ready(self) -> bool:
        """Whether it can be used now."""
        return self.status == "running" and self.ready_when in self.logs()[self._read :]

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal to its main process; SIGKILL ends all that is in it."""
        self.container.kill(signal)
        if signal == "SIGKILL":
            self.container.wait(timeout=TIMEOUT)

    def stop(self) -> int:
        """Ask it to end, as Compose does; return its exit code."""
        self.container.stop(timeout=60)
        code: int = self.container.wait(timeout=TIMEOUT)["StatusCode"]
        return code

    def restart(self, timeout: float = TIMEOUT) -> None:
        """Stop and start it, and wait until it is ready."""
        if self.status == "running":
            self.stop()
        self._read = len(self.logs())
        self.container.start()
        self.ready()


class WorkerPart(Part):
    """A worker of one of the services."""

    ready_when = " ready."

    def worker_name(self) -> str:
        """The node's name, before the @."""
        command: Sequence[str] = self.container.attrs["Config"]["Cmd"]
        return command[command.index("-n") + 1].partition("@")[0]

    @staticmethod
    def worker_queue() -> str:
        """Events come in by this one."""
        return "events"

    @staticmethod
    def log_level() -> str:
        """As in production."""
        return "INFO"

    def version(self) -> str:
        """Celery's, as the image has it."""
        return self.execute("celery", "--version").split()[0]


class RedisPart(Part):
    """Redis, which tests reach at ``url``."""

    ready_when = "Ready to accept connections"

    def __init__(self, container: Container, url: str) -> None:
        super().__init__(container)
        self.url = url
        self.client = redis.Redis.from_url(url, decode_responses=True)

    @property
    def celeryconfig(self) -> Mapping[str, Any]:
        """The URLs for the app of the tests."""
        return {"url": self.url, "host_url": self.url, "vhost": "0"}
