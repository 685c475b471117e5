"""What all benchmarks use: one Redis, one DynamoDB emulator, one nginx, and the systems.

Systems are measured one at a time; the processes of all others are stopped by SIGSTOP. The events
of a round are queued while its system is stopped, too; the clock runs from its SIGCONT until the
table holds a final status of each.

nginx is the sinks, and a reverse proxy before the emulator. Its logs count the calls and requests
of a round, for all systems alike. Redis runs as in ``make run``: append-only file, ``appendfsync
always``.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil
import redis

from embedded.backing_services import (
    HOST,
    emulator_environment,
    find_redis_server,
    free_port,
    redis_command,
)
from embedded.infrastructure import DEPLOY, Template
from embedded.stack import plan, stages
from tests.support.envelopes import SINKS, Envelope, envelope
from tests.support.nodes import ROOT
from tests.support.system import CREDENTIALS, REGION, aws, environment

#: The name of this project beside its peers.
THIS_PROJECT = "this project"

#: How many cores the workers of a system may use.
CORES = 2

#: Seconds that a round may take.
ROUND_TIMEOUT = 120.0

#: Milliseconds after which the slow sinks answer.
SLOW_SINK_MS = 20

_NGINX = """\
{modules}
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 4096; }}
http {{
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000; keepalive_timeout 3600; client_body_buffer_size 512k;
  log_format sink "$uri";
  log_format aws "$http_x_amz_target $request_length $bytes_sent $status";
  upstream aws {{ server {emulator}; keepalive 64; }}
  server {{
    listen {sinks};
    access_log {folder}/sinks.log sink;
    location /fast/ {{ return 204; }}
    location /slow/ {{ {slow} }}
  }}
  server {{
    listen {aws};
    access_log {folder}/aws.log aws;
    location / {{
      proxy_pass http://aws; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header Host {aws};
    }}
  }}
}}
"""

_ECHO = Path("/usr/lib/nginx/modules/ngx_http_echo_module.so")


class NotInstalledError(Exception):
    """Raised when a program that a benchmark needs is not installed."""


class Process:
    """A process and its children, in a session of their own."""

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], folder: Path
    ) -> None:
        """Start it; its output goes to a file in ``folder``."""
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("w") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id, and that of its group."""
        return self._process.pid

    def wait(self, ready: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until it is ready.

        Raises:
            RuntimeError: it ended, or took too long; with the end of its log.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)  # between two checks, until it is ready or its time is over

    def pause(self) -> None:
        """Suspend it."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Resume it."""
        os.killpg(self.pid, signal.SIGCONT)

    def pin(self, cores: int) -> None:
        """Limit it, and the processes that it starts later, to a number of cores."""
        os.sched_setaffinity(self.pid, sorted(os.sched_getaffinity(0))[:cores])

    def family(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]

    def cpu(self) -> float:
        """CPU seconds of the process and its children, including children that ended."""
        return _cpu(self.family())

    def end(self) -> None:
        """Kill it and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def _cpu(processes: Sequence[psutil.Process]) -> float:
    """CPU seconds of processes, including those of their children that ended."""
    used = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used += times.user + times.system + times.children_user + times.children_system
    return used


class _Tail:
    """The lines added to a file since the last call."""

    def __init__(self, path: Path) -> None:
        self._file = path.open()
        self.skip()

    def skip(self) -> None:
        self._file.seek(0, os.SEEK_END)

    def lines(self) -> list[str]:
        return self._file.readlines()


class Bench:
    """Redis, the emulator and nginx; from ``with`` to its end."""

    def __init__(self) -> None:
        """Describe them; ``with`` starts them."""
        self.folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
        self.redis_port = free_port()
        self.redis = redis.Redis(HOST, self.redis_port, decode_responses=True)
        self.emulator = "ministack"
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        """Start all, and return when they are ready."""
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._start_redis(stack)
            emulator = self._start_emulator(stack)
            self._start_nginx(stack, emulator)
            # Not through nginx: requests of the benchmark itself are not counted.
            self.dynamodb = aws("dynamodb", f"http://{emulator}")
            stack.callback(self.dynamodb.close)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End all, and remove what they left."""
        self._exit.close()

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> Process:
        """Start one more process, which ends with the bench."""
        process = Process(name, command, env, self.folder)
        self._exit.callback(process.end)
        return process

    def settings(self, database: int, table: str, sinks: str = "fast") -> dict[str, str]:
        """Return the settings of a system."""
        return {
            "REDIS_URL": f"redis://{HOST}:{self.redis_port}/{database}",
            "PROCESSING_TABLE": table,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": f"http://{self._aws}",
            **CREDENTIALS,
            **{f"{s.upper()}_ENDPOINT": f"http://{self._sinks}/{sinks}/{s}" for s in SINKS},
        }

    def make_table(self, name: str) -> None:
        """Create a table again, with the keys and indexes of ``deploy/storage.yaml``."""
        with suppress(self.dynamodb.exceptions.ResourceNotFoundException):
            self.dynamodb.delete_table(TableName=name)
        template = Template(DEPLOY / "storage.yaml", {"TableName": name})
        _, properties = next(iter(template.resources("AWS::DynamoDB::Table")))
        wanted = ("BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
        self.dynamodb.create_table(TableName=name, **{key: properties[key] for key in wanted})

    def statuses(self, table: str) -> Counter[str]:
        """Count the items of a table by status."""
        found: Counter[str] = Counter()
        pages = self.dynamodb.get_paginator("scan").paginate(
            TableName=table,
            ProjectionExpression="#status",
            ExpressionAttributeNames={"#status": "status"},
        )
        for page in pages:
            found.update(item["status"]["S"] for item in page["Items"])
        return found

    def _start_redis(self, stack: ExitStack) -> None:
        server = find_redis_server()
        if server is None:
            raise NotInstalledError("redis-server: apt-get install redis-server")
        command = redis_command(server, self.redis_port, self.folder)
        process = Process("redis", command, environment(), self.folder)
        stack.callback(process.end)
        process.wait(self._redis_answers)

    def _redis_answers(self) -> bool:
        with suppress(redis.RedisError):
            return bool(self.redis.ping())
        return False

    def _start_emulator(self, stack: ExitStack) -> str:
        port = free_port()
        if found := os.environ.get("BENCH_DYNOXIDE") or shutil.which("dynoxide"):
            self.emulator = "dynoxide"
            command, env = [found, "serve", "--port", str(port)], environment()
        else:
            command = [sys.executable, "-m", "ministack"]
            env = environment(**emulator_environment(port, self.folder))
        process = Process("emulator", command, env, self.folder)
        stack.callback(process.end)
        process.wait(lambda: listens(port))
        return f"{HOST}:{port}"

    def _start_nginx(self, stack: ExitStack, emulator: str) -> None:
        nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        if nginx is None or not _ECHO.exists():
            raise NotInstalledError(
                "nginx with echo: apt-get install nginx-light libnginx-mod-http-echo"
            )
        self._sinks, self._aws = f"{HOST}:{free_port()}", f"{HOST}:{free_port()}"
        configuration = self.folder / "nginx.conf"
        configuration.write_text(
            _NGINX.format(
                modules=f"load_module {_ECHO};",
                folder=self.folder,
                emulator=emulator,
                sinks=self._sinks,
                aws=self._aws,
                slow=f"echo_sleep {SLOW_SINK_MS / 1000}; echo ok;",
            )
        )
        command = [nginx, "-c", str(configuration), "-e", str(self.folder / "nginx.err")]
        process = Process("nginx", command, environment(), self.folder)
        stack.callback(process.end)
        process.wait(lambda: listens(int(self._aws.rpartition(":")[2])))
        self.calls = _Tail(self.folder / "sinks.log")
        self.requests = _Tail(self.folder / "aws.log")


def listens(port: int) -> bool:
    """Return whether a process listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


class Round(NamedTuple):
    """The result of one round of one system; amounts are totals of the round."""

    events: int
    seconds: float
    cpu: float
    commands: Counter[str]
    reads: int
    """How often Redis read from a connection: round trips, a pipeline counting as one."""
    requests: Counter[str]
    """Of DynamoDB, by operation."""
    bytes: int
    """Of DynamoDB's requests and answers."""
    foreign: float
    """Cores that were busy with processes other than those of the benchmark."""
    wrong: str
    """Why the round is invalid; empty if it is valid."""

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds

    @property
    def writes(self) -> int:
        """Those of the requests that write an item."""
        return self.requests["PutItem"] + self.requests["UpdateItem"]


@dataclass
class System:
    """A system that processes events, on a bench."""

    name: str
    bench: Bench
    module: str
    """The module whose ``feed`` queues its events."""
    env: Mapping[str, str]
    table: str
    processes: Sequence[Process]
    last: list[Envelope] = field(default_factory=list)
    """The events of the last round that had new ones."""

    def round(self, events: int, duplicates: int = 0) -> Round:
        """Process this number of new events, mixed with duplicates of those of the round before.

        All other systems must be paused.
        """
        bench = self.bench
        fresh = [envelope() for _ in range(events)]
        again = random.choices(self.last, k=duplicates) if duplicates else []
        if not again:
            bench.make_table(self.table)
        kept = bench.statuses(self.table).total()
        self.last = fresh or self.last
        self.feed(random.sample(fresh + again, events + duplicates))
        bench.calls.skip()
        bench.requests.skip()
        bench.redis.config_resetstat()
        cpu, foreign, begun = self.cpu(), _foreign(), time.monotonic()
        self.resume()
        calls: Counter[str] = Counter()
        requests: list[list[str]] = []
        statuses: Counter[str] = Counter()
        while not (
            calls.total() >= len(SINKS) * events
            and len(requests) >= 2 * events + duplicates
            and (statuses := bench.statuses(self.table))["completed"] >= kept + events
        ):
            if time.monotonic() > begun + ROUND_TIMEOUT:
                break
            time.sleep(0.02)  # between two checks, until all is done or ROUND_TIMEOUT is over
            calls.update(line.strip().rpartition("/")[2] for line in bench.calls.lines())
            requests += [line.split() for line in bench.requests.lines()]
        took = time.monotonic() - begun
        foreign = (_foreign() - foreign) / took
        time.sleep(0.3)  # for the last acknowledgements, which cannot be observed in every system
        self.pause()
        cpu = self.cpu() - cpu
        statistics = bench.redis.info("commandstats")
        reads = bench.redis.info("stats")["total_reads_processed"]
        calls.update(line.strip().rpartition("/")[2] for line in bench.calls.lines())
        requests += [line.split() for line in bench.requests.lines()]
        return Round(
            events=events + duplicates,
            seconds=took,
            cpu=cpu,
            commands=Counter({_command(k): v["calls"] for k, v in statistics.items()}),
            reads=reads,
            requests=Counter(target.rpartition(".")[2] for target, *_ in requests),
            bytes=sum(int(sent) + int(got) for _, sent, got, _ in requests),
            foreign=foreign,
            wrong=_wrong(kept, events, statuses, calls),
        )

    def feed(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Queue events, by the system's own code."""
        subprocess.run(
            [sys.executable, "-m", "benchmarks.feed", self.module],
            cwd=ROOT,
            env=self.env,
            input=json.dumps(events),
            text=True,
            check=True,
        )

    def pause(self) -> None:
        """Suspend all of its processes."""
        for process in self.processes:
            process.pause()

    def resume(self) -> None:
        """Resume all of its processes."""
        for process in self.processes:
            process.resume()

    def cpu(self) -> float:
        """CPU seconds of all its processes."""
        return sum(process.cpu() for process in self.processes)


def _foreign() -> float:
    """CPU seconds of this machine on processes other than those of the benchmark."""
    spent = psutil.cpu_times()
    busy = sum(spent) - spent.idle - spent.iowait - spent.guest - spent.guest_nice
    return float(busy) - _cpu([psutil.Process(), *psutil.Process().children(recursive=True)])


def _command(name: str) -> str:
    return name.removeprefix("cmdstat_").upper()


def _wrong(kept: int, events: int, statuses: Counter[str], calls: Counter[str]) -> str:
    """Return what is wrong: an event has one final status and one call per sink."""
    if statuses != {"completed": kept + events}:
        return f"{kept} and {events} events, but statuses {dict(statuses)}"
    if any(calls[sink] != events for sink in SINKS):
        return f"{events} events, but calls {dict(calls)}"
    return ""


def start_project(
    bench: Bench,
    database: int = 0,
    sinks: str = "fast",
    *,
    name: str = "project",
    workers: int = 1,
    cores: int = CORES,
) -> System:
    """Start the workers that ``make run`` starts, with its settings, but without CXone."""
    bench.make_table(name)
    layout = plan(bench.folder, bench.settings(database, name, sinks))
    settings = {k: v for k, v in layout.environment.items() if not k.startswith("CXONE_")}
    env = environment(**settings)
    processes = []
    for part in stages(layout, workers)[1]:
        if part.name != "flower":
            process = bench.start(f"{name}-{part.name}", part.command, {**env, **part.environment})
            process.pin(cores)
            processes.append(process)
    for process in processes:
        process.wait(_has_logged(process, " ready."))
    return System(THIS_PROJECT, bench, "benchmarks.project", env, name, processes)


class Peer(NamedTuple):
    """How to start a peer, and the log line that shows that it is ready."""

    module: str
    command: tuple[str, ...]
    ready: str


#: Each with two processes, and otherwise with its defaults.
PEERS = {
    "naive chord": Peer(
        "naive_chord",
        ("celery", "-A", "benchmarks.peers.naive_chord", "worker", "-c", "2", "-l", "INFO"),
        " ready.",
    ),
    "dramatiq": Peer(
        "dramatiq_group",
        ("dramatiq", "benchmarks.peers.dramatiq_group", "--processes", "2"),
        "Worker process is ready",
    ),
    "taskiq": Peer(
        "taskiq_stream",
        ("taskiq", "worker", "benchmarks.peers.taskiq_stream:broker", "--workers", "2"),
        "Listening started",
    ),
    "sequential": Peer(
        "sequential",
        ("celery", "-A", "benchmarks.peers.sequential", "worker", "-c", "2", "-l", "INFO"),
        " ready.",
    ),
}


def start_peer(bench: Bench, name: str, database: int, sinks: str = "fast") -> System:
    """Start a peer's workers."""
    module, command, ready = PEERS[name]
    bench.make_table(module)
    env = environment(**bench.settings(database, module, sinks))
    process = bench.start(module, [sys.executable, "-m", *command], env)
    process.pin(CORES)
    process.wait(_has_logged(process, ready))
    return System(name, bench, f"benchmarks.peers.{module}", env, module, [process])


def _has_logged(process: Process, text: str) -> Callable[[], bool]:
    return lambda: text in process.log.read_text()
