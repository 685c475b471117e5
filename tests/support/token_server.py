"""A token endpoint on loopback, and a sink that takes only its newest token."""

import base64
import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote_plus


class TokenServer(ThreadingHTTPServer):
    """Issues ``token-1``, ``token-2``, … at ``/token``; takes the newest at ``/events``."""

    daemon_threads = True

    def __init__(self) -> None:
        """Take a free port; nothing is answered before ``with``."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[tuple[str | None, dict[str, str]]] = []
        self.called: list[str | None] = []
        self.takes: str | None = "newest"
        self.seconds = 0.0
        self.answer: tuple[int, Mapping[str, str], Any] | None = None
        self.life: Any = 3600
        self.count = threading.Lock()

    def __enter__(self) -> "TokenServer":
        """Answer."""
        threading.Thread(target=self.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.shutdown()
        self.server_close()

    @property
    def newest(self) -> str:
        """The token that was issued last."""
        return f"token-{len(self.asked)}"


class _Handler(BaseHTTPRequestHandler):
    server: TokenServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/token":
            self._issue(body)
        else:
            self._take()

    def _issue(self, body: str) -> None:
        with self.server.count:
            self.server.asked.append((_pair(self.headers["Authorization"]), dict(parse_qsl(body))))
            token = self.server.newest
        time.sleep(self.server.seconds)
        issued = {"access_token": token, "token_type": "Bearer", "expires_in": self.server.life}
        self._send(*(self.server.answer or (200, {}, issued)))

    def _take(self) -> None:
        token = self.headers["Authorization"]
        self.server.called.append(token)
        takes = self.server.newest if self.server.takes == "newest" else self.server.takes
        if token == f"Bearer {takes}":
            self._send(200, {}, {})
        else:
            self._send(401, {}, {"error": f"{token} is not taken"})

    def _send(self, status: int, headers: Mapping[str, str], said: Any) -> None:
        content = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _pair(header: str | None) -> str | None:
    """Read client id and secret as RFC 6749 says."""
    if header is None:
        return None
    coded = base64.b64decode(header.removeprefix("Basic ")).decode()
    return ":".join(map(unquote_plus, coded.split(":")))
