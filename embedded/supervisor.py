"""Starts processes in order, restarts those that end, stops them in order, and leaves none behind.

Each process leads a session of its own: a terminal's Ctrl-C reaches the supervisor alone.
"""

import contextlib
import http.client
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from logging import Logger
from logging.handlers import RotatingFileHandler
from pathlib import Path
from urllib.parse import urlsplit

from embedded.console import Console
from embedded.process_groups import MARK, ProcessFile, kill_session

#: Seconds between two checks of the processes.
POLL_INTERVAL = 0.1

#: A process that ends this often in a row before it is ready ends the run.
MAX_STARTS = 3

#: Seconds after which a process counts as stable: when it ends then, the count starts again.
STABLE_AFTER = 60.0

#: Longest wait, in seconds, before a process is restarted.
MAX_BACKOFF = 30.0

#: Bytes of a log file before it is rotated; one older file is kept.
MAX_LOG_BYTES = 5_000_000


class SupervisorError(Exception):
    """Raised when a process cannot be started or kept up. ``lines`` are the last that it logged."""

    def __init__(self, message: str, lines: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.lines = tuple(lines)[-20:]


class StopRequested(Exception):  # noqa: N818 - not an error
    """Raised out of a wait after a signal to stop."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A process that the system consists of. Times are seconds."""

    name: str
    command: Sequence[str]
    #: Whether it is ready, by the last lines of its output or by a quick request to it.
    ready: Callable[[Sequence[str]], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Called when it is ready, after each start, before later stages are started.
    when_ready: Callable[[], None] = lambda: None
    deadline: float = 60.0
    grace: float = 10.0  # between SIGTERM and SIGKILL


def responds(url: str) -> Callable[[Sequence[str]], bool]:
    """Return a check that GET ``url`` gives 200."""
    parts = urlsplit(url)

    def ready(_lines: Sequence[str]) -> bool:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=1)
        with contextlib.closing(connection):
            try:
                connection.request("GET", parts.path)
                return connection.getresponse().status == http.HTTPStatus.OK
            except (OSError, http.client.HTTPException):
                return False

    return ready


def has_logged(text: str) -> Callable[[Sequence[str]], bool]:
    """Return a check that a line of the output contains ``text``."""
    return lambda lines: any(text in line for line in lines)


class _Child:
    """A part and its current process, if it has one."""

    def __init__(self, part: Part, data: Path, on_line: Callable[[str, str], None]) -> None:
        self.part = part
        self._mark = str(data)
        self.process: subprocess.Popen[str] | None = None
        self.ready = False
        self.started = 0.0
        self.start_at = 0.0
        self.deaths = 0  # in a row
        self.last_lines: deque[str] = deque(maxlen=200)
        self._on_line = on_line
        self._reader: threading.Thread | None = None
        self._log = Logger(part.name)
        log = data / "logs" / f"{part.name}.log"
        self._log.addHandler(RotatingFileHandler(log, maxBytes=MAX_LOG_BYTES, backupCount=1))

    def start(self, root: Path) -> None:
        self.last_lines.clear()
        self.ready = False
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self.part.command,
            cwd=root,
            env={**os.environ, **self.part.environment, MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=[self.process], daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        with process.stdout as output:
            for line in iter(lambda: output.readline(10_000), ""):
                text = line.rstrip()
                self.last_lines.append(text)
                self._log.info("%s | %s", self.part.name, text)
                self._on_line(self.part.name, text)

    def age(self) -> float:
        return time.monotonic() - self.started

    def terminate(self) -> None:
        if self.process:
            self.process.terminate()

    def gone(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def clean_up(self) -> None:
        """Kill what is left of its session, and read the rest of its output."""
        if self.process:
            kill_session(self.process.pid)
            self.process.wait()
            self.process = None
        if self._reader:
            self._reader.join(timeout=2)


class Supervisor:
    """Runs parts in stages: a stage is started when all parts of the stage before are ready."""

    def __init__(self, data: Path, root: Path, console: Console) -> None:
        """Keep the list of processes and the logs in ``data``; start every process in ``root``."""
        self._data = data
        self._root = root
        self._console = console
        self._process_file = ProcessFile(data)
        self._stages: list[list[_Child]] = []
        self._signals = 0
        (data / "logs").mkdir(exist_ok=True)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._signals += 1

    def end_leftovers(self) -> None:
        """End the processes that a supervisor that crashed left running, and no others."""
        if ended := self._process_file.end_sessions():
            self._console.write(f"Ended {ended} process(es) that an earlier run left behind.")

    def start(self, parts: Sequence[Part]) -> None:
        """Start a stage, and return when all of its parts are ready.

        Raises:
            SupervisorError: a part missed its deadline or keeps ending.
            StopRequested: a signal arrived.
        """
        stage = [_Child(part, self._data, self._console.process_output) for part in parts]
        self._stages.append(stage)
        self.watch(until=lambda: all(child.ready for child in stage))

    def watch(self, until: Callable[[], bool], seconds: float = float("inf")) -> bool:
        """Keep everything running until ``until()`` holds (True) or the time is over (False).

        Raises:
            SupervisorError: a part missed its deadline or keeps ending.
            StopRequested: a signal arrived.
        """
        end = time.monotonic() + seconds
        while True:
            if self._signals:
                raise StopRequested
            for child in self._children():
                self._check(child)
            if until():
                return True
            if time.monotonic() > end:
                return False
            time.sleep(POLL_INTERVAL)  # between two checks of the processes

    def _children(self) -> Iterator[_Child]:
        return (child for stage in self._stages for child in stage)

    def _check(self, child: _Child) -> None:
        if child.process is None:
            if time.monotonic() >= child.start_at:
                child.start(self._root)
                self._note_sessions()
        elif (code := child.process.poll()) is not None:
            self._on_death(child, code)
        elif not child.ready:
            self._on_start_up(child)

    def _on_start_up(self, child: _Child) -> None:
        part = child.part
        if part.ready(list(child.last_lines)):
            part.when_ready()
            child.ready = True
            self._console.success(part.name, f"ready after {child.age():.1f} s")
        elif child.age() > part.deadline:
            message = f"{part.name} was not ready within {part.deadline:g} s"
            raise SupervisorError(message, child.last_lines)

    def _on_death(self, child: _Child, code: int) -> None:
        if child.age() > STABLE_AFTER:
            child.deaths = 0
        child.deaths += 1
        child.clean_up()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        if not child.ready and child.deaths >= MAX_STARTS:
            message = f"{child.part.name} {how}, {child.deaths} times in a row"
            raise SupervisorError(message, child.last_lines)
        wait = min(MAX_BACKOFF, 0.25 * 2**child.deaths)
        child.start_at = time.monotonic() + wait
        child.ready = False
        self._console.warning(child.part.name, f"{how}; restarting in {wait:g} s")

    def stop(self) -> None:
        """Stop the stages in reverse order, each part within its grace; leave nothing behind.

        One more signal meanwhile kills the rest at once.
        """
        self._signals = max(1, self._signals)
        for stage in reversed(self._stages):
            begun = time.monotonic()
            for child in stage:
                child.terminate()
            for child in stage:
                while not child.gone() and self._signals < 2:
                    if time.monotonic() - begun > child.part.grace:
                        self._console.warning(child.part.name, "did not stop: killed")
                        break
                    time.sleep(POLL_INTERVAL / 2)  # until it is gone, or its grace period is over
                child.clean_up()
            self._note_sessions()
            names = ", ".join(child.part.name for child in stage)
            self._console.step("stopped", f"{names} after {time.monotonic() - begun:.1f} s")
        self._stages.clear()

    def _note_sessions(self) -> None:
        self._process_file.write(
            {c.part.name: c.process.pid for c in self._children() if c.process}
        )
