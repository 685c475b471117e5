"""Processes by the session that they belong to: find them, list them in a file, end them.

Each part of the system leads a session of its own, by which all processes that it starts are
found. The sessions are listed in a file while they run: after a crash of the supervisor, the next
one ends what the file lists, and nothing else.
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

#: The environment variable that names the data folder to which a process belongs.
MARK = "EMBEDDED_DATA"


class InUseError(Exception):
    """Raised when another supervisor holds the data folder."""


class _Session(NamedTuple):
    """An entry of the file. The pid of the leader is the session's id; pids are used again."""

    name: str
    pid: int
    created: float

    def members(self, mark: str) -> list[psutil.Process]:
        """Return its live processes; none if its id is now that of an unrelated session."""
        members = session_members(self.pid)
        leader = next((process for process in members if process.pid == self.pid), None)
        if leader is None:  # it died alone, or the machine was restarted
            return [process for process in members if _is_marked(process, mark)]
        # Two seconds: psutil counts from the time of the boot, which a clock change moves.
        return members if abs(leader.create_time() - self.created) < 2 else []


def _is_marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except psutil.Error:
        return False


class ProcessFile:
    """The file in a data folder that lists the running sessions."""

    def __init__(self, data: Path) -> None:
        """Keep it in ``data``, which is also the value of ``MARK`` in their environment."""
        self._path = data / "processes.json"
        self._mark = str(data)

    def write(self, leaders: Mapping[str, int]) -> None:
        """Replace the list: each part's name and process id."""
        sessions = []
        for name, pid in leaders.items():
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                sessions.append(_Session(name, pid, psutil.Process(pid).create_time())._asdict())
        draft = self._path.with_suffix(".new")
        draft.write_text(json.dumps(sessions))
        draft.replace(self._path)

    def end_sessions(self) -> int:
        """End the listed sessions that still run; return how many processes that were."""
        try:
            recorded = [_Session(**entry) for entry in json.loads(self._path.read_text())]
        except FileNotFoundError:
            return 0
        found = [process for entry in recorded for process in entry.members(self._mark)]
        pids = {entry.pid for entry in recorded}
        leaders = [process for process in found if process.pid in pids]
        for process in leaders:  # each ends its own children
            _send(process, signal.SIGTERM)
        psutil.wait_procs(leaders, timeout=10)
        while rest := [process for entry in recorded for process in entry.members(self._mark)]:
            _kill(rest)
        self._path.unlink()
        return len(found)


def session_members(leader: int) -> list[psutil.Process]:
    """Return the live processes of a session."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


def kill_session(leader: int) -> None:
    """Kill every process of a session, including those that it starts meanwhile."""
    while members := session_members(leader):
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
    """Lock a data folder against a second supervisor; create it if needed.

    Raises:
        InUseError: another supervisor holds the lock.
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
