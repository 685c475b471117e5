"""``python -m benchmarks.client``: posts events to ingest, each over a new connection.

It is Python, as its servers are: the rate of a server that does nothing shows its own limit. It
runs in a process of its own and prints JSON: latencies in milliseconds, by status.
"""

import argparse
import asyncio
import json
import socket
import time
import uuid
from collections import defaultdict

from embedded.backing_services import HOST
from tests.support.envelopes import envelope
from tests.support.system import API_KEY


class Client:
    """Posts events and records the latencies."""

    def __init__(self, port: int) -> None:
        """Post to ``port`` of loopback."""
        self._address = (HOST, port)
        self.latencies: dict[int, list[float]] = defaultdict(list)
        event = envelope(id="@")
        body = json.dumps(event).encode()
        length = len(body) - 1 + len(str(uuid.uuid4()))
        head = (
            f"POST /events HTTP/1.1\r\nHost: {HOST}\r\nx-api-key: {API_KEY}\r\n"
            "User-Agent: Amazon/EventBridge/ApiDestinations\r\nConnection: close\r\n"
            "Content-Type: application/json; charset=utf-8\r\nRange: bytes=0-1048575\r\n"
            f"Accept-Encoding: gzip,deflate\r\nContent-Length: {length}\r\n\r\n"
        )
        self._before, self._after = (head.encode() + body).split(b"@", 1)

    async def post(self, begun: float) -> None:
        """Post an event; its latency counts from ``begun``."""
        loop = asyncio.get_running_loop()
        answer = b""
        with socket.socket() as connection:
            connection.setblocking(False)
            await loop.sock_connect(connection, self._address)
            event = self._before + str(uuid.uuid4()).encode() + self._after
            await loop.sock_sendall(connection, event)
            while chunk := await loop.sock_recv(connection, 4096):
                answer += chunk
        status = int(answer[9:12] or 0)
        self.latencies[status].append((time.perf_counter() - begun) * 1000)

    async def keep_posting(self, until: float) -> None:
        """Post one event after another until that time."""
        while (begun := time.perf_counter()) < until:
            await self.post(begun)

    async def keep_busy(self, connections: int, seconds: float) -> None:
        """Keep this number of connections busy."""
        until = time.perf_counter() + seconds
        await asyncio.gather(*(self.keep_posting(until) for _ in range(connections)))

    async def at_rate(self, rate: float, seconds: float) -> None:
        """Open ``rate`` connections a second, however long answers take.

        A latency counts from the scheduled time (no coordinated omission).
        """
        start = time.perf_counter()
        async with asyncio.TaskGroup() as posts:
            for number in range(int(rate * seconds)):
                moment = start + number / rate
                await asyncio.sleep(max(0.0, moment - time.perf_counter()))
                posts.create_task(self.post(moment))


def main() -> None:
    """Post at the rate, or on the connections, that the command line gives."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client")
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--connections", type=int, help="kept busy")
    how.add_argument("--rate", type=float, help="new connections a second")
    options = parser.parse_args()
    client = Client(options.port)
    if options.rate:
        asyncio.run(client.at_rate(options.rate, options.seconds))
    else:
        asyncio.run(client.keep_busy(options.connections, options.seconds))
    print(json.dumps(client.latencies))


if __name__ == "__main__":
    main()
