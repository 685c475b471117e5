"""The parts of one system under test, wired together on free ports of loopback."""

import http.client
import json
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import boto3
from botocore.config import Config
from celery import Celery
from celery.events.receiver import EventReceiver

from embedded.stubs.sinks import Received, SampleSinks
from tasks.claims import Claim, Claims, Status
from tasks.settings.model import variables

from .envelopes import SINKS, Envelope
from .nodes import (
    HOST,
    ROOT,
    BeatContainer,
    ProcessContainer,
    RedisContainer,
    WorkerContainer,
    free_port,
    python,
)
from .waiting import TIMEOUT, eventually
from .wiretap import Wiretap

API_KEY = "a-key-for-the-tests"

REGION = "us-east-1"

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}

#: Settings of this shell that the processes under test must not get.
FOREIGN = {variable.name for variable in variables()}


def environment(**settings: str) -> dict[str, str]:
    """Return the environment of a process under test: these settings, and none of this shell's."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in FOREIGN and not name.startswith(("AWS_", "CELERY_"))
    }
    # The code of this checkout; and no proxy between loopback and itself.
    paths = {"PYTHONPATH": str(ROOT), "NO_PROXY": HOST, "no_proxy": HOST}
    return {**clean, **paths, "PYTHONUNBUFFERED": "1", **settings}


def aws(service: Any, endpoint: str, config: Config | None = None) -> Any:
    """Make a client of the emulator."""
    return boto3.client(
        service,
        config=config,
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )


def create_table(endpoint: str, name: str) -> None:
    """Deploy ``deploy/storage.yaml``, unchanged."""
    with closing(aws("cloudformation", endpoint)) as cloudformation:
        cloudformation.create_stack(
            StackName=name,
            TemplateBody=(ROOT / "deploy" / "storage.yaml").read_text(),
            Parameters=[{"ParameterKey": "TableName", "ParameterValue": name}],
        )

        def status() -> str:
            found: str = cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
            return found

        eventually(lambda: status() != "CREATE_IN_PROGRESS")
        assert status() == "CREATE_COMPLETE"


class Answer(NamedTuple):
    """What ingest answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


class IngestContainer(ProcessContainer):
    """``python -m ingest``."""

    def __init__(self, folder: Path, settings: Mapping[str, str], module: str = "ingest") -> None:
        """Use a free port."""
        self.port = free_port()
        settings = {"INGEST_API_KEYS": API_KEY, "INGEST_PORT": str(self.port), **settings}
        super().__init__("ingest", python(module), folder, environment(**settings))

    def is_ready(self) -> bool:
        """It listens; the broker may be away."""
        try:
            return self.request("GET", "/healthz").status == http.HTTPStatus.OK
        except OSError:
            return False

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection, as EventBridge does for every event."""
        return http.client.HTTPConnection(HOST, self.port, timeout=TIMEOUT)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Answer:
        """Send a request and read its answer."""
        with closing(self.connect()) as connection:
            connection.request(method, path, body, dict(headers or {}), **options)
            with connection.getresponse() as response:
                return Answer(response.status, response.headers, response.read())

    def post(self, body: Any, **headers: str) -> Answer:
        """Send an event, as EventBridge does; what is not bytes yet becomes JSON."""
        sent = {
            "x-api-key": API_KEY,
            "User-Agent": "Amazon/EventBridge/ApiDestinations",
            "Content-Type": "application/json; charset=utf-8",
            "Range": "bytes=0-1048575",
            "Accept-Encoding": "gzip,deflate",
            "Connection": "close",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", "/events", content, sent)


class TaskEvents:
    """The task events that workers send, as Flower receives them; from ``with`` to its end."""

    def __init__(self, broker: RedisContainer) -> None:
        """Receive from this broker."""
        self._broker = broker
        self._app = Celery("events", broker=broker.url, set_as_current=False)
        self._received: list[dict[str, Any]] = []
        self._receiver: EventReceiver | None = None
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> "TaskEvents":
        """Return once nothing can be missed."""
        self._thread.start()
        eventually(lambda: self._broker.client.pubsub_numpat() > 0)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        if self._receiver:
            self._receiver.should_stop = True
        self._thread.join()
        self._app.close()

    def _listen(self) -> None:
        with self._app.connection_for_read() as connection:
            self._receiver = EventReceiver(connection, handlers={"*": self._receive}, app=self._app)
            self._receiver.run(wakeup=False)  # connects again where the broker went away

    def _receive(self, event: dict[str, Any]) -> None:
        if event["type"].startswith("task-"):
            self._received.append(event)

    def all(self) -> list[dict[str, Any]]:
        """Every event so far, oldest first."""
        return list(self._received)

    def of(self, task_id: str) -> list[dict[str, Any]]:
        """The events of one task; of every task whose id starts like this, if it ends in a dot."""
        if task_id.endswith("."):
            return [event for event in self._received if event["uuid"].startswith(task_id)]
        return [event for event in self._received if event["uuid"] == task_id]

    def types(self, task_id: str) -> list[str]:
        """The types of one task's events, without their ``task-``."""
        return [event["type"].removeprefix("task-") for event in self.of(task_id)]

    def wait_for(self, task_id: str, *types: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until a task (or ``count`` of them) ended, or came to one of ``types``."""
        wanted = types or ("succeeded", "failed", "revoked")

        def found() -> list[dict[str, Any]]:
            matching = [e for e in self.of(task_id) if e["type"].removeprefix("task-") in wanted]
            return matching if len(matching) >= count else []

        return eventually(found, what=f"{count} of {task_id} {'/'.join(wanted)}")


class System:
    """Redis, a table, ingest, a worker, and beat where it is wanted; from ``with`` to its end.

    ``settings`` are those of every process. Workers reach DynamoDB through ``dynamodb``, a proxy.
    ``task_events`` keeps every event; ``listen=False`` switches it off, for long runs.
    """

    def __init__(
        self,
        folder: Path,
        *,
        aws_url: str,
        sinks: SampleSinks,
        beat: bool = False,
        listen: bool = True,
        broker: RedisContainer | None = None,
        worker_options: Sequence[str] = (),
        **settings: str,
    ) -> None:
        """Describe the parts; ``with`` starts them."""
        self.folder = folder
        self.sinks = sinks
        self.aws_url = aws_url
        self.table = f"claims-{folder.name}"
        self.dynamodb = Wiretap(aws_url)
        self.broker = broker or RedisContainer(folder)
        self.settings = {
            "REDIS_URL": self.broker.url,
            "PROCESSING_TABLE": self.table,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": aws_url,
            **CREDENTIALS,
            **{f"{name.upper()}_ENDPOINT": sinks.url(name) for name in SINKS},
            **settings,
        }
        self.ingest = IngestContainer(folder, self.settings)
        self.worker = self.make_worker("worker", *worker_options)
        self.beat = self.make_beat("beat") if beat else None
        self.task_events = TaskEvents(self.broker)
        self._listen = listen
        self._client = aws("dynamodb", aws_url)
        self.claims = Claims(self._client, self.table, lease=600, retention_days=30)
        self._exit = ExitStack()

    def __enter__(self) -> "System":
        """Start everything, and return when it is ready."""
        with ExitStack() as stack:
            stack.callback(self._client.close)
            create_table(self.aws_url, self.table)
            stack.enter_context(self.dynamodb)
            self._start(stack, self.broker)
            self.broker.ready()
            if self._listen:
                stack.enter_context(self.task_events)
            parts = [part for part in (self.worker, self.ingest, self.beat) if part]
            for part in parts:
                self._start(stack, part)
            for part in parts:
                part.ready()
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self._exit.close()

    def _start(self, stack: ExitStack, part: ProcessContainer) -> None:
        stack.callback(part.teardown)
        part.start()

    def make_worker(self, name: str = "worker", *options: str, **settings: str) -> WorkerContainer:
        """Describe one more worker, with settings of its own; it is not started."""
        changed = {**self.settings, "AWS_ENDPOINT_URL": self.dynamodb.url, **settings}
        return WorkerContainer(self.folder, environment(**changed), name, options)

    def make_beat(self, name: str) -> BeatContainer:
        """Describe one more beat; it is not started."""
        return BeatContainer(self.folder, environment(**self.settings), name)

    def make_ingest(self, module: str, **settings: str) -> IngestContainer:
        """Describe one more ingest, which ``python -m module`` starts; it is not started."""
        return IngestContainer(self.folder, {**self.settings, **settings}, module)

    def run(self, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        """Run ``python -m …`` to its end, as a user would whose shell has the settings."""
        return subprocess.run(
            python(*arguments),
            cwd=ROOT,
            env=environment(**{**self.settings, **settings}),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def celery(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run ``celery -A tasks …``."""
        return self.run("celery", "-A", "tasks", *arguments)

    def accept(self, event: Envelope) -> str:
        """Post an event, which ingest must accept; return its deduplication key."""
        answer = self.ingest.post(event)
        assert (answer.status, answer.json["accepted"]) == (202, 1), answer
        replay = event.get("replay-name")
        return f"{event['id']}@{replay}" if replay else str(event["id"])

    def claim(self, key: str) -> Claim:
        """Read a claim that must be there."""
        claim = self.claims.get(key)
        assert claim is not None, f"no claim of {key}"
        return claim

    def settled(self, key: str, seconds: float = TIMEOUT) -> Claim:
        """Wait until an event has a final status."""

        def settled() -> Claim | None:
            claim = self.claims.get(key)
            return claim if claim and claim.status is not Status.PROCESSING else None

        claim = eventually(settled, seconds, what=f"{key} has settled")
        assert claim is not None
        return claim

    def settle(self, event: Envelope) -> Claim:
        """Post an event and wait for its final status."""
        return self.settled(self.accept(event))

    def client(self, service: Any) -> Any:
        """Make a client of the emulator."""
        return aws(service, self.aws_url)

    def item(self, key: str) -> dict[str, Any]:
        """Read the item of a claim as DynamoDB has it."""
        answer = self._client.get_item(TableName=self.table, Key={"id": {"S": key}})
        item: dict[str, Any] = answer["Item"]
        return item

    def change(self, key: str, attribute: str, value: Any) -> None:
        """Set an attribute of an item, past the code under test."""
        self._client.update_item(
            TableName=self.table,
            Key={"id": {"S": key}},
            UpdateExpression="SET #a = :v",
            ExpressionAttributeNames={"#a": attribute},
            ExpressionAttributeValues={":v": value},
        )

    def make_due(self, key: str) -> None:
        """Make an event that has a lease or a delayed retry due now; leave any other as it is."""
        claim = self.claim(key)
        with suppress(self._client.exceptions.ConditionalCheckFailedException):
            self._client.update_item(
                TableName=self.table,
                Key={"id": {"S": key}},
                UpdateExpression="SET due_at = :past",
                ConditionExpression="attribute_exists(due_at) AND version = :version",
                ExpressionAttributeValues={
                    ":past": {"N": "1"},
                    ":version": {"N": str(claim.version)},
                },
            )

    def due(self) -> set[str]:
        """The keys in the index of what is due, now or later."""
        return {due.key for due in self.claims.due(until=2**40)}

    def calls(self, event: Envelope) -> dict[str, list[Received]]:
        """Every call about an event's interaction, under whatever key, by sink."""
        interaction = event["detail"]["interactionId"]
        return {
            sink: [r for r in self.sinks.received(sink) if r.body["interactionId"] == interaction]
            for sink in SINKS
        }

    def audit_log(self, key: str) -> list[dict[str, Any]]:
        """The audit records of one event that the worker logged, one JSON object per line."""
        lines = [line for line in self.worker.logs().splitlines() if line.startswith("{")]
        return [record for record in map(json.loads, lines) if record.get("eventId") == key]

    def pool_process_of(self, app: Celery, task_id: str) -> int:
        """Wait until a worker runs this task; return the id of the process."""

        def found() -> int | None:
            inspect = app.control.inspect(limit=1)  # one worker's answer is all there is
            active: Mapping[str, Sequence[Mapping[str, Any]]] = inspect.active() or {}
            tasks = [task for tasks in active.values() for task in tasks]
            return next((t["worker_pid"] for t in tasks if t["id"] == task_id), None)

        pid = eventually(found, what=f"{task_id} runs")
        assert pid is not None
        return pid
