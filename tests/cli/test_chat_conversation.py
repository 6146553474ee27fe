"""The conversation of `gllm chat`, with answers from a script instead of a model."""

import json
from collections.abc import Callable, Generator, Sequence
from typing import Any

import httpx
import pytest

from gllm import chat
from gllm.chat import ChatError, Message, Piece

Heard = list[list[Message]]


def type_lines(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> None:
    """What the user types; an exception stands for Ctrl-C or Ctrl-D."""
    typed = iter(lines)

    def read(_prompt: str) -> str:
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)


def speaker(heard: Heard, *answers: Sequence[Piece | BaseException]) -> chat.Speaker:
    """Gives one of `answers` after the other and notes the messages."""
    script = iter(answers)

    def speak(messages: Sequence[Message]) -> Generator[Piece]:
        heard.append([dict(message) for message in messages])
        for piece in next(script):
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    return speak


def contents(messages: list[Message]) -> list[str]:
    return [message["content"] for message in messages]


def test_the_history_grows_until_it_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: Heard = []
    type_lines(monkeypatch, "one", "", "two", r"\clear", "three", r"\exit")
    chat.converse(speaker(heard, [Piece("1")], [Piece("2")], [Piece("3")]), system="be kind")
    assert [contents(messages) for messages in heard] == [
        ["be kind", "one"],
        ["be kind", "one", "1", "two"],
        ["be kind", "three"],
    ]
    assert [message["role"] for message in heard[1]] == ["system", "user", "assistant", "user"]


def test_ctrl_c_keeps_what_was_said_and_the_chat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: Heard = []
    type_lines(monkeypatch, "one", KeyboardInterrupt, "two", EOFError)
    chat.converse(speaker(heard, [Piece("half"), KeyboardInterrupt()], [Piece("2")]))
    assert contents(heard[1]) == ["one", "half", "two"]
    out = capsys.readouterr().out
    assert "half (stopped)" in out
    assert r"(\exit leaves)" in out


def test_a_turn_that_fails_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: Heard = []
    type_lines(monkeypatch, "one", "two", r"\exit")
    chat.converse(speaker(heard, [ChatError("no room left")], [Piece("2")]))
    assert contents(heard[1]) == ["two"]
    assert "gllm: no room left" in capsys.readouterr().err


def test_the_statistics_are_the_seed_s(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([12.0, 13.0])  # the first token, the last
    monkeypatch.setattr(chat.time, "perf_counter", lambda: next(times))
    turn = chat.Turn(started=10.0)
    turn.take(Piece("a", 100, 1))
    turn.take(Piece("b", 100, 31))
    expected = "#input: 100 #output: 31 elapsed time: 3.00 s rate(prefill/decode): 50.0/30.0 toks/s"
    assert str(turn) == expected
    assert str(chat.Turn(started=0.0, ended=1.0)).startswith("#input: ? #output: ? elapsed time: 1.00 s")


# ---- a server ---------------------------------------------------------------------------------


def client_of(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.Client:
    return httpx.Client(base_url="http://server", transport=httpx.MockTransport(answer))


def stream_of(*events: Any) -> httpx.Response:
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return httpx.Response(200, text="".join(f"data: {line}\n\n" for line in lines))


def test_a_server_is_asked_for_a_stream_with_counts() -> None:
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return stream_of(
            {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
            {"choices": [{"delta": {"content": "Hel"}}], "usage": None},
            {"choices": [{"delta": {"content": "lo"}}]},
            {"choices": [{"delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}},
            "[DONE]",
        )

    with client_of(answer) as client:
        pieces = list(chat.server_speaker(client, "m", {"top_k": 3})([{"role": "user", "content": "x"}]))
    assert "".join(piece.text for piece in pieces) == "Hello"
    assert (pieces[-1].num_input_tokens, pieces[-1].num_output_tokens) == (9, 2)
    assert asked == [
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True,
         "stream_options": {"include_usage": True}, "top_k": 3}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (httpx.Response(400, json={"error": {"message": "too long"}}), "too long"),
        (httpx.Response(502, text="<html>"), "the server answered 502 Bad Gateway"),
        (stream_of({"error": {"message": "engine lost"}}, "[DONE]"), "engine lost"),
        (stream_of("{"), "not JSON"),
    ],
)
def test_what_a_server_refuses_is_told(response: httpx.Response, sentence: str) -> None:
    with client_of(lambda _: response) as client, pytest.raises(ChatError, match=sentence):
        list(chat.server_speaker(client, "m", {})([]))


def test_the_model_is_the_first_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    with client_of(lambda _: httpx.Response(200, json={"data": [{"id": "a"}, {"id": "b"}]})) as client:
        assert chat.first_model(client) == "a"
    nothing = client_of(lambda _: httpx.Response(200, json={"data": []}))
    with nothing as client, pytest.raises(ChatError, match="lists no model"):
        chat.first_model(client)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with chat.connect("http://server:1/v1/") as client:
        assert str(client.base_url) == "http://server:1"
        assert client.headers["Authorization"] == "Bearer secret"
