"""``python -m ingest``: the endpoint under gunicorn.

gunicorn, because it is the WSGI server that operators know: it supervises its workers, hands
over gracefully on SIGTERM and reads chunked bodies. Threads, because a request waits for Redis
more than it computes, and EventBridge opens a connection for every event.
"""

import argparse
import json
import logging
import socket
import struct
from typing import Any

from gunicorn import util
from gunicorn.app.base import BaseApplication

from ingest.publisher import EventQueue
from ingest.wsgi import Ingest
from tasks.settings import Role, Settings, load_or_exit, settings
from tasks.worker import compat

THREADS = 16

#: Seconds that a client may stay silent in the middle of its request.
SILENCE = 4

#: What is no public API of gunicorn, as ``tasks.worker.compat`` describes it.
GUNICORN = {"gunicorn": "27"}
GUNICORN_METHODS = {
    "gunicorn.util:write_error": "sock, status_int, reason, mesg",
    "gunicorn.util:write_nonblock": "sock, data, chunked=False",
}
GUNICORN_NAMES = {
    "gunicorn.arbiter:Arbiter.start": "LISTENERS create_sockets when_ready",
    "gunicorn.sock:BaseSocket.__init__": "sock",
    "gunicorn.workers.base:Worker.handle_error": "util write_error",
}


class Server(BaseApplication):
    """gunicorn, set up by our settings and by nothing else."""

    def __init__(self, settings: Settings) -> None:
        """Make a server that is not listening yet; ``run`` serves until SIGTERM."""
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Tell gunicorn what to do."""
        options: dict[str, Any] = {
            "bind": f"{self._settings.ingest_host}:{self._settings.ingest_port}",
            "workers": self._settings.ingest_workers,
            "worker_class": "gthread",
            "threads": THREADS,
            "backlog": 1024,
            # EventBridge opens a connection for every event; a client that is slow to send what was
            # refused anyway is not to hold a thread.
            "keepalive": 0,
            "graceful_timeout": 10,
            "proc_name": "ingest",
            "when_ready": _limit_silence,
            "control_socket_disable": True,
            "forwarder_headers": "",  # nobody but the request's first line says what is asked for
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Make the WSGI callable, once a worker process."""
        from tasks.celery import app  # noqa: PLC0415 - after the fork: no connection is shared

        queue = EventQueue(
            app,
            max_backlog=self._settings.ingest_max_backlog,
            threads=THREADS,
            replay_policy=self._settings.replay_policy,
        )
        return Ingest(self._settings, queue)


def _limit_silence(arbiter: Any) -> None:
    """Make a read that waits too long fail; connections inherit it from their listener."""
    for listener in arbiter.LISTENERS:
        listener.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", SILENCE, 0)
        )


def _write_error(sock: socket.socket, status_int: int, reason: str, mesg: str) -> None:
    """Answer a request that gunicorn cannot read in JSON, as all others are; it would in HTML."""
    body = json.dumps({"error": mesg or reason})
    head = (
        f"HTTP/1.1 {status_int} {reason}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    util.write_nonblock(sock, "\r\n".join([*head, "", body]).encode())


def _is_not_silence(record: logging.LogRecord) -> bool:
    """Keep gunicorn from writing a traceback for each client that fell silent."""
    return not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError))


def main() -> None:
    """Serve until SIGTERM."""
    argparse.ArgumentParser(
        prog="python -m ingest",
        description="The endpoint for EventBridge API destinations. "
        "Its settings come from the environment: see docs/settings.md.",
    ).parse_args()
    load_or_exit(Role.INGEST)
    logging.basicConfig(
        level=logging.INFO, format="[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
    )
    compat.verify()
    compat.verify(GUNICORN, GUNICORN_METHODS, GUNICORN_NAMES)
    logging.getLogger("gunicorn.error").addFilter(_is_not_silence)
    util.write_error = _write_error  # there is no setting for it
    Server(settings()).run()  # read before the fork: a worker that starts later asks for no secret


if __name__ == "__main__":
    main()
