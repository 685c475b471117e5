"""A second machine: its network meets the project at Redis, the table and the sinks alone."""

import secrets
from contextlib import ExitStack, suppress

import docker
from docker.errors import NotFound
from docker.models.containers import Container

from .parts import WorkerPart
from .project import Project

#: What both machines reach, by the names that the settings give them.
SHARED = ("redis", "aws", "sinks")


class Machine:
    """``with`` makes it; workers that are started on it have the project's settings and secrets."""

    def __init__(self, project: Project, name: str = "there") -> None:
        """Name it; its workers are ``name@…``."""
        self.name = name
        self._project = project
        self._engine = docker.from_env()
        self._exit = ExitStack()

    def __enter__(self) -> "Machine":
        """Make its network, and connect to it what is shared."""
        with ExitStack() as stack:
            stack.callback(self._engine.close)
            label = f"{self._project.name}-{self.name}-{secrets.token_hex(4)}"
            self._network = self._engine.networks.create(label)
            stack.callback(self._network.remove)
            for service in SHARED:
                [container] = self._project.containers(service)
                self._network.connect(container, aliases=[service])
                stack.callback(self._leave, container)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove its workers and its network."""
        self._exit.close()

    def start_worker(self, *arguments: str) -> WorkerPart:
        """Start a worker of all queues, as ``docker run`` would; return when it is ready."""
        [model] = self._project.containers("worker")
        config = model.attrs["Config"]
        [volume] = [m["Name"] for m in model.attrs["Mounts"] if m["Destination"] == "/run/secrets"]
        container = self._engine.containers.run(
            config["Image"],
            ["worker", "-n", f"{self.name}@%h", *arguments],
            environment=config["Env"],
            volumes=[f"{volume}:/run/secrets:ro"],
            network=self._network.name,
            read_only=True,
            tmpfs={"/tmp": ""},
            detach=True,
        )
        self._exit.callback(container.remove, force=True)
        worker = WorkerPart(container)
        worker.ready()
        return worker

    def cut_off(self, worker: WorkerPart) -> None:
        """Disconnect a worker from the network."""
        self._network.disconnect(worker.container)

    def join(self, worker: WorkerPart) -> None:
        """Connect it again."""
        self._network.connect(worker.container)

    def _leave(self, container: Container) -> None:
        with suppress(NotFound):  # Compose has made another in its place
            self._network.disconnect(container, force=True)
