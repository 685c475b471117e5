"""Processes by the session they belong to: which run, which are on record, and their end.

Each part of the system leads a session of its own, so whatever it starts is known by it. The
sessions are on record while they run: after a crash of the supervisor, the next one ends what
the record names, and nothing else.
"""

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

#: The environment variable by which a process is known as one of this data folder's.
MARK = "EMBEDDED_DATA"


class InUseError(Exception):
    """Raised when another supervisor holds the data folder."""


class _Session(NamedTuple):
    """A session on record: its leader's pid is its id; the time tells it from a later one."""

    name: str
    pid: int
    created: float

    def members(self, mark: str) -> list[psutil.Process]:
        """Return its live processes, none if the number has gone to somebody else's session."""
        members = session(self.pid)
        leader = next((process for process in members if process.pid == self.pid), None)
        if leader is None:  # a worker's pool outlived it, say, or the machine was restarted
            return [process for process in members if _is_marked(process, mark)]
        # Two seconds: the time is counted from the boot, whose own time may be set right.
        return members if abs(leader.create_time() - self.created) < 2 else []


def _is_marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except psutil.Error:
        return False


class ProcessFile:
    """The file of a data folder that names the sessions that run."""

    def __init__(self, data: Path) -> None:
        """Keep it in ``data``, whose name the processes bear in their environment (``MARK``)."""
        self._path = data / "processes.json"
        self._mark = str(data)

    def write(self, leaders: Mapping[str, int]) -> None:
        """Note what runs: each part's name and process id."""
        sessions = []
        for name, pid in leaders.items():
            with contextlib.suppress(psutil.NoSuchProcess):  # it died meanwhile
                sessions.append(_Session(name, pid, psutil.Process(pid).create_time())._asdict())
        draft = self._path.with_suffix(".new")
        draft.write_text(json.dumps(sessions))
        draft.replace(self._path)

    def end_sessions(self) -> int:
        """End the recorded sessions that still run; return how many processes that were."""
        try:
            recorded = [_Session(**entry) for entry in json.loads(self._path.read_text())]
        except FileNotFoundError:
            return 0
        found = [process for entry in recorded for process in entry.members(self._mark)]
        leaders = {entry.pid for entry in recorded}
        for process in found:
            if process.pid in leaders:  # which then ends its own children
                _send(process, signal.SIGTERM)
        psutil.wait_procs([process for process in found if process.pid in leaders], timeout=10)
        while rest := [process for entry in recorded for process in entry.members(self._mark)]:
            _kill(rest)
        self._path.unlink()
        return len(found)


def session(leader: int) -> list[psutil.Process]:
    """Return the live processes of a session."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


def kill_session(leader: int) -> None:
    """Kill every process of a session, also those that it starts meanwhile."""
    while members := session(leader):
        _kill(members)


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        _send(process, signal.SIGKILL)
    psutil.wait_procs(processes, timeout=1)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


@contextlib.contextmanager
def sole_owner(data: Path) -> Iterator[None]:
    """Hold a data folder, made where it is not there, against a second supervisor.

    Raises:
        InUseError: another one holds it.
    """
    data.mkdir(mode=0o700, parents=True, exist_ok=True)  # events are personal data
    with (data / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            message = f"{data} is in use by another run (process {holder}); name another --data"
            raise InUseError(message) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
