"""The client: responses cut at every place, and what a server's answers become."""

import asyncio
import json
from array import array
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gllm.bench.api import Api, Chat, Completions
from gllm.bench.client import Client
from gllm.bench.datasets import Sample
from gllm.bench.errors import BenchError
from gllm.bench.metrics import Outcome
from gllm.bench.response import Events, Response, ResponseError

CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = [b"data: one\n\n", b"data: two\r\n\r\n: a comment\n\ndata:three\n\n", b"data: [DONE]\n\n"]
SAMPLE = Sample(array("i", [5, 6, 7]), 3, 4)

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


STREAM = CHUNKED + b"".join(map(chunk, [*EVENTS, b""]))


def test_a_response_is_the_same_wherever_it_is_cut() -> None:
    for first in range(len(STREAM)):
        for second in range(first, len(STREAM), 7):
            response, events, found = Response(), Events(), list[bytes]()
            for piece in (STREAM[:first], STREAM[first:second], STREAM[second:]):
                assert not response.is_done
                found += events.feed(response.feed(piece))
            assert response.is_done
            assert response.keeps_alive
            assert found == [b"one", b"two", b"three", b"[DONE]"]


def test_bytes_may_come_one_by_one() -> None:
    response = Response()
    body = b"".join(response.feed(STREAM[at : at + 1]) for at in range(len(STREAM)))
    assert (response.status, body, response.is_done) == (200, b"".join(EVENTS), True)


def test_a_body_ends_by_its_length_or_by_the_connection() -> None:
    response = Response()
    assert response.feed(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nno") == b"no"
    assert not response.is_done
    with pytest.raises(ResponseError, match="before its answer was whole"):
        response.end()
    assert response.feed(b" ok") == b" ok"
    assert (response.status, response.reason, response.is_done) == (404, "Not Found", True)
    closing = Response()
    assert closing.feed(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall") == b"all"
    closing.end()
    assert (closing.is_done, closing.keeps_alive) == (True, False)


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-OpenSSH\r\n\r\n", b"x" * 70000, CHUNKED + b"zz\r\n", CHUNKED + b"1" * 2000]
)
def test_what_is_no_response_is_one_sentence(data: bytes) -> None:
    with pytest.raises(ResponseError):
        Response().feed(data)


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def text(piece: str, finish: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "text": piece, "finish_reason": finish}])


def delta(finish: str | None = None, **fields: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": finish}])


USAGE = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 4})
DONE = b"data: [DONE]\n\n"


def streamed(*pieces: bytes | float) -> Answer:
    """An answer of chunks, with seconds of silence between them where a number stands."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        for piece in pieces:
            if isinstance(piece, bytes):
                writer.write(chunk(piece))
            else:
                await asyncio.sleep(piece)
        writer.write(chunk(b""))

    return write


def plain(data: bytes) -> Answer:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return write


def ask(api: Api, *answers: Answer, closes: bool = False) -> tuple[list[Outcome], list[dict[str, Any]], int]:
    """Send a request for each answer to a server that gives them; outcomes, bodies, connections."""
    bodies: list[dict[str, Any]] = []
    num_connections = 0
    coming = iter(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_connections
        num_connections += 1
        while head := await reader.readuntil(b"\r\n\r\n"):
            size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            bodies.append(json.loads(await reader.readexactly(size)))
            await next(coming)(writer)
            if closes:
                break
        writer.close()

    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    async def run() -> list[Outcome]:
        server = await asyncio.start_server(quiet, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        outcomes = [Outcome(3) for _ in answers]
        async with server, Client(f"http://127.0.0.1:{port}", api.ENDPOINT, {}) as client:
            for outcome in outcomes:
                await client.generate(api, api.body(SAMPLE), outcome)
                await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        return outcomes

    return asyncio.run(run()), bodies, num_connections


def test_outputs_are_timed_and_tokens_counted_by_usage() -> None:
    api = Completions("m", {"temperature": 0.0, "ignore_eos": True})
    answer = streamed(0.05, text("a"), 0.05, text("bc"), text("", "stop"), USAGE, DONE)
    (outcome,), (body,), _ = ask(api, answer)
    assert body == {
        "model": "m", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.0,
        "ignore_eos": True, "prompt": [5, 6, 7], "max_tokens": 4,
    }  # fmt: skip
    assert (outcome.error, outcome.text, outcome.num_output_tokens) == ("", "abc", 4)
    assert len(outcome.outputs) == 3
    assert outcome.ttft >= 0.05
    assert outcome.ttft + outcome.itls[0] >= 0.1, "a late reader finds the first output late, too"
    assert outcome.ttft < outcome.latency


def test_the_opening_of_a_chat_is_no_output() -> None:
    api = Chat("m", {}, lambda tokens: " ".join(map(str, tokens)))
    answer = streamed(
        delta(role="assistant", content=""), 0.1, delta(content="a"), delta(reasoning_content="b"),
        delta("stop"), DONE,
    )  # fmt: skip
    (outcome,), (body,), _ = ask(api, answer)
    assert body["messages"] == [{"role": "user", "content": "5 6 7"}]
    assert body["max_completion_tokens"] == 4
    assert outcome.ttft >= 0.1
    assert outcome.text == "ab"
    assert outcome.num_output_tokens == len(outcome.outputs) == 3, "without usage, outputs are counted"


REFUSAL = b'{"error": {"message": "too long", "code": null}}'


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            plain(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 48\r\n\r\n" + REFUSAL),
            "400 Bad Request: too long",
        ),
        (plain(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\nfull"), "502 Bad Gateway: full"),
        (streamed(text("a"), event(error={"message": "worker lost"}), DONE), "worker lost"),
        (streamed(DONE), "the answer ended without any output"),
        (plain(CHUNKED + chunk(text("a"))), "the server closed the connection before its answer was whole"),
        (streamed(b"data: {\n\n"), "Expecting property name"),
        (streamed(b"data: [1]\n\n"), "no JSON object: [1]"),
    ],
)
def test_what_goes_wrong_is_the_error_of_its_request(answer: Answer, error: str) -> None:
    (outcome,), _, _ = ask(Completions("m", {}), answer, closes=True)
    assert error in outcome.error
    assert outcome.outputs == []
    assert (outcome.num_output_tokens, outcome.latency) == (0, 0.0)


@pytest.mark.parametrize(("closes", "num_connections"), [(False, 1), (True, 3)])
def test_connections_are_used_again_unless_the_server_closed_them(closes: bool, num_connections: int) -> None:
    answer = streamed(text("a"), USAGE, DONE)
    outcomes, _, found = ask(Completions("m", {}), answer, answer, answer, closes=closes)
    assert [outcome.error for outcome in outcomes] == ["", "", ""]
    assert found == num_connections


def test_a_server_that_is_not_there_is_an_error_and_a_wrong_url_a_mistake() -> None:
    async def run() -> Outcome:
        outcome = Outcome(1)
        async with Client("http://127.0.0.1:1", "/v1/completions", {}) as client:
            await client.generate(Completions("m", {}), b"{}", outcome)
        return outcome

    assert "Connect" in asyncio.run(run()).error
    with pytest.raises(BenchError, match="no URL"):
        Client("127.0.0.1:8000", "/v1/completions", {})
