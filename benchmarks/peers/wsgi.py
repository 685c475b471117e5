"""``python -m benchmarks.peers.wsgi noop|apply_async``: peers of ingest, under gunicorn as well."""

import json
import sys
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from ingest.__main__ import Server
from tasks.settings import settings


def noop(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read the body, and answer 202."""
    environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("202 Accepted", [("Content-Length", "0")])
    return []


def apply_async(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Queue a Celery task, and answer 202."""
    from benchmarks.peers.naive_chord import process  # noqa: PLC0415 - after the fork

    event = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    process.apply_async((event,))
    start_response("202 Accepted", [("Content-Length", "0")])
    return []


class PeerServer(Server):
    """gunicorn as ``python -m ingest`` configures it, with another application."""

    def load(self) -> Any:
        """Return the application that the command line names."""
        return {"noop": noop, "apply_async": apply_async}[sys.argv[1]]


if __name__ == "__main__":
    PeerServer(settings()).run()
