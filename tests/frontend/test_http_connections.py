"""Bytes on the wire: what is not HTTP, too long, too slow or ambiguous ends that connection only."""

import json
import re
import socket
import time

import h11
import pytest
from http_server import Deployment

from gllm.frontend.body import READ_TIMEOUT_S

BODY = b'{"model": "tiny", "prompt": "hello"}'
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GET = b"GET /version HTTP/1.1\r\nHost: x\r\n"


def exchange(server: Deployment, *pieces: bytes, half_close: bool = False) -> tuple[bytes, dict[str, str]]:
    """Everything that comes back until the server closes: the status lines' bytes and the first error."""
    with socket.create_connection(server.listener.getsockname(), timeout=60) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
            if half_close:
                client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it closed while we were sending: what it said is still there to read
        received = b""
        try:
            while data := client.recv(65536):
                received += data
        except ConnectionResetError:
            pass
    body = received.partition(b"\r\n\r\n")[2]
    return received, json.loads(body)["error"] if body.startswith(b'{"error"') else {}


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /\r\n\r\n",
        GET + b"no colon\r\n\r\n",
        GET + b"Na me: x\r\n\r\n",
        b"GET /version HTTP/1.1\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        POST + b"Content-Length: -5\r\n\r\n12345",
        POST + b"Transfer-Encoding: gzip\r\n\r\n12345",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET + b"\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    ],
)
def test_ambiguous_or_broken_requests_are_refused_once_and_closed(
    server: Deployment, request_bytes: bytes
) -> None:
    received, error = exchange(server, request_bytes, half_close=True)
    assert received.startswith(b"HTTP/1.1 4")
    assert received.count(b"HTTP/1.1") == 1
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "headers",
    [b"X: " + b"a" * 1_000_000 + b"\r\n", b"".join(b"X-%d: a\r\n" % index for index in range(20_000))],
    ids=["one of a megabyte", "twenty thousand"],
)
def test_headers_over_the_limit_are_431(server: Deployment, headers: bytes) -> None:
    received, error = exchange(server, GET + headers + b"\r\n")
    assert received.startswith(b"HTTP/1.1 431")
    assert "65536 bytes" in error["message"]


def test_a_header_that_never_ends_is_408(server: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gllm.frontend.connection.HEADER_TIMEOUT_S", 1.0)
    for beginning in (b"", GET):
        received, error = exchange(server, beginning)
        assert received.startswith(b"HTTP/1.1 408")
        assert error["type"] == "invalid_request_error"
    # The second request of a connection has no more time than the first.
    received, _ = exchange(server, GET + b"\r\n" + GET)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"408"]


def test_a_body_that_never_ends_is_408(server: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gllm.frontend.body.READ_TIMEOUT_S", 0.2)
    received, _ = exchange(server, POST + b"Content-Length: 50\r\n\r\n{")
    assert received.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in received


def test_a_body_beyond_the_limit_is_not_read_to_its_end(server: Deployment) -> None:
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    began = time.monotonic()
    received, error = exchange(server, POST + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 1000)
    assert received.startswith(b"HTTP/1.1 413")
    assert "100000 bytes" in error["message"]
    assert time.monotonic() - began < READ_TIMEOUT_S / 2


def test_an_unread_body_is_never_taken_for_the_next_request(server: Deployment) -> None:
    smuggled = GET + b"\r\n"
    request = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (len(smuggled) + 5)
    received, _ = exchange(server, request + smuggled)
    assert received.startswith(b"HTTP/1.1 404")
    assert received.count(b"HTTP/1.1") == 1


def test_a_body_that_ends_early_hurts_nobody(server: Deployment) -> None:
    exchange(server, POST + b"Content-Length: 5000\r\n\r\n{", half_close=True)
    assert not server.scheduler.submits


def test_one_connection_serves_many_requests(server: Deployment) -> None:
    server.answers("x")
    request = POST + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
    received, _ = exchange(server, request * 3 + GET + b"Connection: close\r\n\r\n")
    assert received.count(b"HTTP/1.1 200") == 4


def test_a_websocket_is_not_spoken_here(server: Deployment) -> None:
    upgrade = GET + b"Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    received, _ = exchange(server, upgrade, half_close=True)
    assert received.startswith(b"HTTP/1.1 200")


def test_many_broken_requests_leave_nothing_behind(server: Deployment) -> None:
    server.answers("x")
    for _ in range(30):
        exchange(server, b"\r\n\r\n\0\0", half_close=True)
        exchange(server, POST + b"Content-Length: 1\r\n\r\n{", half_close=True)
    deadline = time.monotonic() + 60
    while len(server.http_server.server_state.connections) > 1:  # httpx keeps one
        assert time.monotonic() < deadline
        time.sleep(0.01)


def streamed(server: Deployment, version: bytes) -> bytes:
    """All bytes of a streamed answer on a connection that closes behind it."""
    body = b'{"model": "tiny", "prompt": "hello", "stream": true}'
    head = b"POST /v1/completions HTTP/%b\r\nHost: x\r\nConnection: close\r\n" % version
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(server.listener.getsockname()[:2], timeout=60) as client:
        client.sendall(head + body)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


def test_a_stream_comes_in_chunks_that_a_strict_reader_takes(server: Deployment) -> None:
    server.answers("one two three")
    answer = h11.Connection(h11.CLIENT)
    answer.send(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "0")]))
    answer.send(h11.EndOfMessage())
    answer.receive_data(streamed(server, b"1.1"))
    events = []
    while (event := answer.next_event()) is not h11.NEED_DATA:
        events.append(event)
        if isinstance(event, h11.EndOfMessage):
            break
    text = b"".join(bytes(event.data) for event in events if isinstance(event, h11.Data))
    assert isinstance(events[-1], h11.EndOfMessage)
    assert text.startswith(b"data: {")
    assert text.endswith(b"}\n\ndata: [DONE]\n\n")


def test_a_client_of_http_1_0_gets_a_stream_without_chunks(server: Deployment) -> None:
    server.answers("one two three")
    head, _, text = streamed(server, b"1.0").partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert text.startswith(b"data: {")
    assert text.endswith(b"}\n\ndata: [DONE]\n\n")
    assert text.count(b"\n\n") == text.count(b"data: ")
