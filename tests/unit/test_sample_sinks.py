"""The sample sinks: an incomplete request is not recorded."""

import socket
import urllib.request
from urllib.parse import urlsplit

from embedded.stubs.sinks import SampleSinks


def test_incomplete_request_is_not_recorded():
    with SampleSinks() as sinks:
        url = urlsplit(sinks.url("crm"))
        with socket.create_connection((url.hostname, url.port)) as client:
            client.sendall(b"POST /crm HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{")
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b""
        assert sinks.received("crm") == []
        request = urllib.request.Request(sinks.url("crm"), b"{}", {"Idempotency-Key": "whole"})
        urllib.request.urlopen(request).close()
        assert [received.key for received in sinks.received("crm")] == ["whole"]
