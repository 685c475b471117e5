"""The pool of a worker's processes: Celery's, which forgets no job that a process may run.

When a worker stops, or loses its broker, Celery forgets the jobs that no process has confirmed to
have started (``AsynPool.flush``). Among them are jobs that are in the pipe to a process, or that a
process has just started. Such a job runs all the same: its message is not acknowledged and is
delivered again, so a sink is called twice; and its process waits 30 seconds for the result to be
read before it ends, and the worker waits for the process.
"""

from typing import Any

from celery.concurrency import asynpool, prefork


class _Processes(asynpool.AsynPool):
    _cache: dict[int, Any]
    outbound_buffer: Any

    def flush(self) -> None:
        """Forget the jobs that were written to no process, or to one that has ended."""
        waiting = self.outbound_buffer
        written = {n: j for n, j in self._cache.items() if j._write_to and j not in waiting}
        super().flush()
        for number, job in written.items():
            if not job.ready() and job._write_to._is_alive():
                self._cache[number] = job


class TaskPool(prefork.TaskPool):
    """The pool that ``worker_pool`` names."""

    Pool = _Processes
