"""The system under test in containers, with the interface of the one made of processes."""

from contextlib import ExitStack, closing
from typing import Any

import requests

from embedded.stubs.sinks import Received
from tasks.claims import Claim, Claims
from tests.support.envelopes import Envelope
from tests.support.system import Answer, IngestContainer, System, TaskEvents, aws
from tests.support.waiting import eventually

from .parts import TIMEOUT, RedisPart, WorkerPart
from .project import Project


class PublishedIngest(IngestContainer):
    """Ingest, at the port where Compose publishes it, with the key that was made for it."""

    def __init__(self, project: Project) -> None:
        self.port = project.ports["INGEST_PORT"]
        [container] = project.containers("ingest")
        self.api_key = (
            container.exec_run(["cat", "/run/secrets/ingest_api_keys"])[1].decode().strip()
        )

    def post(self, body: Any, **headers: str) -> Answer:
        """Send an event, as EventBridge does."""
        return super().post(body, **{"x_api_key": self.api_key, **headers})


class PublishedSinks:
    """The sample sinks, at the port where Compose publishes them."""

    def __init__(self, project: Project) -> None:
        self._url = project.url("SINKS_PORT")

    def behave(self, name: str, mode: str = "ok", **options: Any) -> None:
        """Set how a service answers from now on."""
        url = f"{self._url}/{name}/behaviour"
        requests.put(url, json={"mode": mode, **options}, timeout=TIMEOUT).raise_for_status()

    def received(self, name: str, key: str | None = None) -> list[Received]:
        """What came to a service, oldest first; only with this Idempotency-Key if it is given."""
        parameters = {"key": key} if key else {}
        answer = requests.get(f"{self._url}/{name}/received", parameters, timeout=TIMEOUT)
        return [Received(**request) for request in answer.json()]


class ContainerSystem(System):
    """What a project of Compose runs."""

    def __init__(self, project: Project) -> None:
        """Wrap a project that is up; ``with`` receives its workers' events."""
        self.project = project
        self.sinks = PublishedSinks(project)
        self.aws_url = project.url("AWS_PORT")
        self.table = "cxone_event_processor"
        self.ingest = PublishedIngest(project)
        self.broker = self._redis()
        self.worker = self.part("worker-crm")
        self.task_events = TaskEvents(self.broker)
        self._client = aws("dynamodb", self.aws_url)
        self.claims = Claims(self._client, self.table, lease=600, retention_days=30)
        self._exit = ExitStack()

    def __enter__(self) -> "ContainerSystem":
        """Listen."""
        self._exit.enter_context(closing(self._client))
        self._exit.enter_context(closing(self.broker.client))
        self._exit.enter_context(self.task_events)
        return self

    def accept(self, event: Envelope) -> str:
        """Post an event as EventBridge does, again after 503; return its deduplication key."""

        def accepted() -> bool:
            answer = self.ingest.post(event)
            assert answer.status in (202, 503), answer
            return answer.status == 202

        eventually(accepted, TIMEOUT, what="ingest takes an event")
        return str(event["id"])

    def settled(self, key: str, seconds: float = TIMEOUT) -> Claim:
        """Wait until an event has a final status."""
        return super().settled(key, seconds)

    def part(self, service: str) -> WorkerPart:
        """Find the only worker of a service."""
        [container] = self.project.containers(service)
        return WorkerPart(container)

    def _redis(self) -> RedisPart:
        [container] = self.project.containers("redis")
        password = container.exec_run(["cat", "/run/secrets/redis_password"])[1].decode().strip()
        return RedisPart(
            container, f"redis://:{password}@127.0.0.1:{self.project.ports['REDIS_PORT']}/0"
        )
