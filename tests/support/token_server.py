"""A token endpoint on loopback, and a sink that accepts only its newest token."""

import base64
import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote_plus


class TokenServer(ThreadingHTTPServer):
    """Issues ``token-1``, ``token-2``, … at ``/token``; accepts the newest at ``/events``."""

    daemon_threads = True

    def __init__(self) -> None:
        """Bind a free port; requests are answered from ``with`` on."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.token_requests: list[tuple[str | None, dict[str, str]]] = []
        self.call_tokens: list[str | None] = []
        self.accepts: str | None = "newest"
        self.seconds = 0.0
        self.response: tuple[int, Mapping[str, str], Any] | None = None
        self.lifetime: Any = 3600
        self.lock = threading.Lock()

    def __enter__(self) -> "TokenServer":
        """Start."""
        threading.Thread(target=self.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.shutdown()
        self.server_close()

    @property
    def newest(self) -> str:
        """The token that was issued last."""
        return f"token-{len(self.token_requests)}"


class _Handler(BaseHTTPRequestHandler):
    server: TokenServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/token":
            self._issue(body)
        else:
            self._receive()

    def _issue(self, body: str) -> None:
        with self.server.lock:
            self.server.token_requests.append(
                (_credentials(self.headers["Authorization"]), dict(parse_qsl(body)))
            )
            token = self.server.newest
        time.sleep(self.server.seconds)
        issued = {"access_token": token, "token_type": "Bearer", "expires_in": self.server.lifetime}
        self._send(*(self.server.response or (200, {}, issued)))

    def _receive(self) -> None:
        token = self.headers["Authorization"]
        self.server.call_tokens.append(token)
        accepts = self.server.newest if self.server.accepts == "newest" else self.server.accepts
        if token == f"Bearer {accepts}":
            self._send(200, {}, {})
        else:
            self._send(401, {}, {"error": f"{token} is not accepted"})

    def _send(self, status: int, headers: Mapping[str, str], content: Any) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def _credentials(header: str | None) -> str | None:
    """Read client id and secret as RFC 6749 encodes them."""
    if header is None:
        return None
    coded = base64.b64decode(header.removeprefix("Basic ")).decode()
    return ":".join(map(unquote_plus, coded.split(":")))
