"""docker-compose.yml under a name, ports, settings and image tags of its own."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import docker
from docker.errors import ImageNotFound
from docker.models.containers import Container
from docker.models.networks import Network

from tests.support.nodes import HOST, ROOT, free_port
from tests.support.waiting import eventually

from .parts import TIMEOUT

#: Services that do their work and end.
ONE_SHOTS = {"secrets", "provision"}

#: The label by which stages of the Dockerfile are found that no tag names.
_LABEL = "org.opencontainers.image.title=cxone-event-processor"

#: For the tests alone, the broker is published, too.
_OVERRIDE = 'services: {{redis: {{ports: ["127.0.0.1:{REDIS_PORT}:6379"]}}}}\n'


def compose() -> list[str] | None:
    """Find Compose: Docker's plugin, else the standalone program."""
    plugin = ["docker", "compose"]
    with suppress(OSError, subprocess.CalledProcessError):
        subprocess.run([*plugin, "version"], check=True, capture_output=True)
        return plugin
    return ["docker-compose"] if shutil.which("docker-compose") else None


class Project:
    """A run of docker-compose.yml: ``with`` builds and starts it, and leaves nothing behind."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        """Name it; ``settings`` are for every process, beside those of deploy/compose.env."""
        self.name = f"cxone-test-{secrets.token_hex(4)}"
        # Chosen, not left to the engine, which would choose others at every restart.
        names = ("INGEST_PORT", "FLOWER_PORT", "SINKS_PORT", "AWS_PORT", "REDIS_PORT")
        self.ports = {name: free_port() for name in names}
        self._engine = docker.from_env()
        self._exit = ExitStack()
        override = folder / "override.yml"
        override.write_text(_OVERRIDE.format(**self.ports))
        own = folder / "settings.env"
        lines = [f"{name}={value}" for name, value in settings.items()]
        own.write_text("\n".join([(ROOT / "deploy/compose.env").read_text(), *lines, ""]))
        files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(override)]
        self._command = [*(compose() or []), "-p", self.name, *files]
        self._environment = {
            **os.environ,
            **{name: str(port) for name, port in self.ports.items()},
            "SETTINGS": str(own),
            "IMAGE_TAG": self.name,
        }

    def __enter__(self) -> "Project":
        """Build, start, and return when all of it is healthy."""
        with ExitStack() as stack:
            stack.callback(self._engine.close)
            stack.callback(self._remove_images, self._unnamed_images())
            stack.callback(self.run, "down", "--volumes", "--remove-orphans", "--timeout", "2")
            self.run("build", "--force-rm")  # a build that fails leaves no container, either
            self.run("up", "--detach")
            self.until_healthy()
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove containers, networks, volumes and images."""
        self._exit.close()

    def run(self, *arguments: str) -> str:
        """Run a command of Compose, which must succeed; return its output."""
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def url(self, port: str) -> str:
        """Where a published port is."""
        return f"http://{HOST}:{self.ports[port]}"

    def containers(self, service: str | None = None) -> list[Container]:
        """Find the project's containers, or a service's; also those that have ended."""
        labels = [f"com.docker.compose.project={self.name}"]
        if service:
            labels.append(f"com.docker.compose.service={service}")
        found: list[Container] = self._engine.containers.list(all=True, filters={"label": labels})
        return found

    def until_healthy(self) -> None:
        """Wait until every container is healthy, or has done what it was for."""
        eventually(lambda: not self._unhealthy(), TIMEOUT, what="all is healthy")

    def _unhealthy(self) -> set[str]:
        states = {
            container.labels["com.docker.compose.service"]: container.attrs["State"]
            for container in self.containers()
        }
        return {
            name
            for name, state in states.items()
            if state.get("Health", {}).get("Status") != "healthy"
            and not (name in ONE_SHOTS and state["Status"] == "exited" and state["ExitCode"] == 0)
        }

    def restore(self) -> None:
        """Start what a test has killed, and wait until all is healthy."""
        for container in self.containers():
            if container.labels["com.docker.compose.service"] not in ONE_SHOTS:
                container.start()
        self.until_healthy()

    def cut_off(self, container: Container) -> None:
        """Disconnect a container from the network."""
        self._network().disconnect(container)

    def join(self, container: Container) -> None:
        """Connect it again."""
        self._network().connect(container)

    def image_size(self, name: str) -> int:
        """The size of an image in bytes."""
        size: int = self._engine.images.get(name).attrs["Size"]
        return size

    def run_image(self, *command: str, **settings: str) -> tuple[int, str]:
        """Run the image alone; return its exit code and output."""
        container = self._engine.containers.run(
            f"cxone-event-processor:{self.name}", list(command), environment=settings, detach=True
        )
        try:
            code: int = container.wait(timeout=TIMEOUT)["StatusCode"]
            return code, container.logs().decode()
        finally:
            container.remove(force=True)

    def _network(self) -> Network:
        label = f"com.docker.compose.project={self.name}"
        [network] = self._engine.networks.list(filters={"label": label})
        return network

    def _unnamed_images(self) -> set[str]:
        filters = {"dangling": True, "label": _LABEL}
        return {image.id for image in self._engine.images.list(filters=filters)}

    def _remove_images(self, older: set[str]) -> None:
        """Remove what this project built, and nothing that was there before."""
        for kind in ("", "-embedded"):
            with suppress(ImageNotFound):
                self._engine.images.remove(f"cxone-event-processor{kind}:{self.name}")
        for image in self._unnamed_images() - older:
            self._engine.images.remove(image)
