"""Answers over real HTTP: text, counts, reasons, streams, batches, stops, leaving."""

import json
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from http_server import Deployment

from gllm.frontend.tokenizer import Tokenizer
from gllm.protocol.messages import Submit

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
USER = [{"role": "user", "content": "hello"}]
ANSWER = "naïve 字 😀 ok"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def text_of(events: list[Any], index: int = 0) -> str:
    """The text that a stream shows for one choice."""
    shown = ""
    for event in events:
        for choice in event["choices"]:
            if choice["index"] == index:
                shown += choice["text"] if "text" in choice else choice["delta"].get("content", "")
    return shown


def test_a_completion_has_text_reason_and_counts(server: Deployment, tokenizer: Tokenizer) -> None:
    server.answers(ANSWER)
    response = server.complete(prompt="hello you", max_tokens=100)
    answer = response.json()
    assert response.status_code == 200
    assert answer["object"] == "text_completion"
    assert answer["model"] == "tiny"
    assert re.fullmatch("cmpl-[0-9a-f]{32}", answer["id"])
    (choice,) = answer["choices"]
    assert choice == {
        "index": 0,
        "text": ANSWER,
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": None,
    }
    generated = len(tokenizer.encode(ANSWER)) + 1  # with the end of text, which is not shown
    num_prompt = len(tokenizer.encode("hello you"))
    assert answer["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": generated,
        "total_tokens": num_prompt + generated,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


@pytest.mark.parametrize("stop", [None, "world"])
def test_usage_says_what_the_prefix_cache_held(server: Deployment, stop: str | None) -> None:
    """Also where a stop string ends the output, so that the scheduler never says how it went."""
    server.answers("hello world again")
    server.scheduler.num_cached_tokens = 2
    counts = [server.complete(stop=stop).json()["usage"]["prompt_tokens_details"]]
    events = server.complete(stop=stop, stream=True, stream_options={"include_usage": True})
    last = [line for line in events.text.splitlines() if line.startswith("data: {")][-1]
    counts.append(json.loads(last[6:])["usage"]["prompt_tokens_details"])
    assert counts == [{"cached_tokens": 2}] * 2


def test_how_a_request_waits_is_the_schedulers_to_know(server: Deployment) -> None:
    server.answers(ANSWER)
    server.complete(priority=-3, timeout_s=2.5, cache_salt="tenant")
    server.complete()
    said, silent = server.scheduler.submits
    assert (said.priority, said.timeout_s, said.cache_salt) == (-3, 2.5, "tenant")
    assert (silent.priority, silent.timeout_s, silent.cache_salt) == (0, 0.0, "")


def test_a_chat_goes_through_the_template(server: Deployment, tokenizer: Tokenizer) -> None:
    server.answers(ANSWER)
    answer = server.chat().json()
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": ANSWER, "refusal": None}
    (submit,) = server.scheduler.submits
    shown = tokenizer.decode(submit.prompt, skip_special_tokens=False)
    assert shown == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert answer["usage"]["prompt_tokens"] == len(submit.prompt)
    # Without max_tokens a chat may fill the context, a completion 16 tokens.
    assert submit.max_tokens + len(submit.prompt) <= server.engine.limits.max_model_len
    assert len(submit.prompt) + answer["usage"]["completion_tokens"] + submit.max_tokens == 256


def test_a_chat_stream_has_openais_events(server: Deployment) -> None:
    server.answers(ANSWER)
    events = server.events(CHAT, messages=USER, stream_options={"include_usage": True})
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text_of(events) == ANSWER
    *chunks, usage = events
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert usage["choices"] == []
    assert usage["usage"] == server.chat().json()["usage"]


def test_a_stream_without_usage_has_none(server: Deployment) -> None:
    server.answers(ANSWER)
    events = server.events(COMPLETIONS, prompt="hello", max_tokens=99)
    assert all("usage" not in event and event["choices"] for event in events)
    assert events[0]["object"] == "text_completion"
    assert text_of(events) == ANSWER
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_no_event_ever_holds_half_a_character(server: Deployment) -> None:
    server.answers("字😀中文" * 5)
    events = server.events(COMPLETIONS, prompt="hello", max_tokens=200)
    assert text_of(events) == "字😀中文" * 5
    assert all("\ufffd" not in text_of([event]) for event in events)


def test_a_length_stop_is_told_and_a_broken_end_is_shown_then(server: Deployment) -> None:
    server.answers("hello ß")
    num_tokens = len(server.tokenizer.encode("hello ß")) - 1
    answer = server.complete(max_tokens=num_tokens).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["text"] == "hello \ufffd"
    assert answer["usage"]["completion_tokens"] == num_tokens


@pytest.mark.parametrize("tokens_a_commit", [1, 3, 100])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("stop", [" quick", "k b", "ick brown fox j", ["zzz", "own", "quick brown"]])
def test_a_stop_string_is_found_across_tokens_and_never_shown(
    server: Deployment, stop: str | list[str], stream: bool, tokens_a_commit: int
) -> None:
    text = "the quick brown fox jumps over"
    stops = [stop] if isinstance(stop, str) else stop
    found = [one for one in stops if one in text]
    first = min(found, key=lambda one: (text.index(one) + len(one), -len(one)))
    expected = text[: text.index(first)]
    server.answers(text, stop=None)
    server.scheduler.tokens_a_commit = tokens_a_commit
    if stream:
        events = server.events(
            COMPLETIONS, prompt="hello", stop=stop, max_tokens=99, stream_options={"include_usage": True}
        )
        choice, shown, usage = events[-2]["choices"][0], text_of(events), events[-1]["usage"]
    else:
        answer = server.complete(stop=stop, max_tokens=99).json()
        choice, shown, usage = answer["choices"][0], answer["choices"][0]["text"], answer["usage"]
    assert shown == expected
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", first)
    # The count is that of the tokens up to the stop, however many came at once.
    ids = server.tokenizer.encode(text)
    needed = next(n for n in range(len(ids)) if first in server.tokenizer.decode(ids[:n]))
    assert usage["completion_tokens"] == needed
    # The scheduler does not know stop strings: it is told to end.
    until(lambda: server.scheduler.cancelled == [server.scheduler.submits[-1].request_id])


def test_what_looks_like_a_stop_string_at_the_end_is_shown(server: Deployment) -> None:
    server.answers("the quick")
    assert text_of(server.events(CHAT, messages=USER, stop="quick brown")) == "the quick"


def test_stop_token_ids_end_the_output_and_are_named(server: Deployment, tokenizer: Tokenizer) -> None:
    end = tokenizer.special_id("<|endoftext|>")
    server.answers("hello", stop="<|endoftext|>")
    choice = server.complete(stop_token_ids=[end]).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("hello", "stop", end)
    assert end in server.scheduler.submits[0].stop_token_ids
    assert tokenizer.special_id("<|im_end|>") in server.scheduler.submits[0].stop_token_ids


def test_ignore_eos_goes_on_behind_the_end_of_text(server: Deployment, tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("hello"), tokenizer.special_id("<|im_end|>"), *tokenizer.encode(" world")]
    server.scheduler.script = lambda _submit: ids
    choice = server.complete(ignore_eos=True, max_tokens=len(ids)).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("hello world", "length")
    choice = server.complete(ignore_eos=True, max_tokens=len(ids), skip_special_tokens=False).json()[
        "choices"
    ][0]
    assert choice["text"] == "hello<|im_end|> world"


def test_sampling_travels_as_it_was_given(server: Deployment) -> None:
    server.answers("x")
    plain, off = {"temperature": 0}, {"top_k": -1, "seed": -1}
    for given in (plain, off, {"temperature": 2, "top_p": 0.5, "top_k": 7, "seed": 5}):
        assert server.complete(**given).status_code == 200
    greedy, masked, full = (submit.sampling for submit in server.scheduler.submits)
    assert greedy.temperature == 0
    assert (masked.temperature, masked.top_p, masked.top_k, masked.seed) == (1.0, 1.0, 0, 2**63 - 1)
    assert (full.temperature, full.top_p, full.top_k, full.seed) == (2.0, 0.5, 7, 5)


def test_requests_without_a_seed_get_different_ones(server: Deployment) -> None:
    server.answers("x")
    for _ in range(3):
        server.complete()
    assert len({submit.sampling.seed for submit in server.scheduler.submits}) == 3


@pytest.mark.parametrize("stream", [True, False])
def test_a_batch_of_prompts_is_answered_in_order(
    server: Deployment, tokenizer: Tokenizer, stream: bool
) -> None:
    words = ["hello", "world", "quick", "lazy"]
    end = tokenizer.special_id("<|im_end|>")

    def echo(submit: Submit) -> list[int]:
        # The later ones are done first.
        return [*submit.prompt.tolist() * (5 - words.index(tokenizer.decode(submit.prompt))), end]

    server.scheduler.script = echo
    expected = [word * (5 - index) for index, word in enumerate(words)]
    for prompt in (words, [tokenizer.encode(word) for word in words]):
        if stream:
            events = server.events(
                COMPLETIONS, prompt=prompt, max_tokens=50, stream_options={"include_usage": True}
            )
            assert [text_of(events, index) for index in range(4)] == expected
            usage = events[-1]["usage"]
        else:
            answer = server.complete(prompt=prompt, max_tokens=50).json()
            assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
            assert [choice["text"] for choice in answer["choices"]] == expected
            usage = answer["usage"]
        num_prompt = sum(len(tokenizer.encode(word)) for word in words)
        assert usage["prompt_tokens"] == num_prompt
        generated = sum(len(tokenizer.encode(word)) * (5 - index) + 1 for index, word in enumerate(words))
        assert usage["completion_tokens"] == generated


def test_one_prompt_may_be_token_ids(server: Deployment) -> None:
    server.answers("x")
    assert server.complete(prompt=[5, 6, 7]).json()["usage"]["prompt_tokens"] == 3
    assert list(server.scheduler.submits[0].prompt) == [5, 6, 7]


def test_a_prompt_without_max_tokens_may_nearly_fill_the_context(server: Deployment) -> None:
    server.scheduler.script = lambda _submit: [5] * 300
    answer = server.complete(prompt=[5] * 250).json()
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["choices"][0]["finish_reason"] == "length"


def test_neutral_and_harmless_fields_change_nothing(server: Deployment) -> None:
    server.answers("x")
    answer = server.chat(
        n=1, best_of=None, presence_penalty=0.0, frequency_penalty=0, logprobs=False, top_logprobs=None,
        logit_bias={}, response_format={"type": "text"}, tools=[], tool_choice="none", min_p=0, user="me",
        metadata={"a": "b"}, store=False, service_tier="auto", stop=None, temperature=None, stream=None,
        parallel_tool_calls=True, max_completion_tokens=50, max_tokens=50,
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    assert server.scheduler.submits[0].max_tokens == 50 - 2


def test_models_version_and_health(server: Deployment) -> None:
    (card,) = server.http.get("/v1/models").json()["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == ("tiny", "model", 256)
    assert server.http.get("/v1/models/tiny").json() == card
    assert re.match(r"\d+\.", server.http.get("/version").json()["version"])
    assert server.http.get("/health").json() == {"status": "ok"}
    assert server.http.head("/health").status_code == 200


def test_health_is_false_when_steps_do_not_progress(
    server: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.scheduler.oldest_step_s = 61.0
    response = server.http.get("/health")
    assert response.status_code == 503
    assert "61 s" in response.json()["error"]["message"]
    server.scheduler.oldest_step_s = 59.0
    assert server.http.get("/health").status_code == 200
    monkeypatch.setattr("gllm.frontend.routes.status.STATS_TIMEOUT_S", 0.1)
    server.scheduler.answers_stats = False
    response = server.http.get("/health")
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "server_error"
    server.engine._stats = None  # the fake forgot the question


def test_the_request_id_is_echoed_or_made(server: Deployment) -> None:
    assert server.http.get("/version", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = server.http.get("/version", headers={"X-Request-Id": "no good"}).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert server.http.get("/nothing", headers={"X-Request-Id": "e"}).headers["x-request-id"] == "e"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("abruptly", [True, False])
@pytest.mark.parametrize("begun", [True, False])
def test_a_client_that_leaves_cancels_its_requests(
    server: Deployment, stream: bool, abruptly: bool, begun: bool
) -> None:
    server.scheduler.script = lambda _submit: [5] if begun else []
    body = (
        b'{"model": "tiny", "prompt": ["a", "b", "c"], "max_tokens": 99, "stream": %s}'
        % str(stream).lower().encode()
    )
    with socket.create_connection(server.listener.getsockname()) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        until(lambda: len(server.scheduler.submits) == 3)
        if begun and stream:
            assert client.recv(10).startswith(b"HTTP/1.1 2")
        if abruptly:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    ids = {submit.request_id for submit in server.scheduler.submits}
    until(lambda: set(server.scheduler.cancelled) == ids)
    until(lambda: server.gateway._num_open == 0)


def test_a_client_that_never_reads_is_dropped(server: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gllm.frontend.streaming.WRITE_TIMEOUT_S", 0.2)
    monkeypatch.setattr("gllm.frontend.streaming.LOOK_S", 0.1)
    huge = '"text":"%s"' % ("x" * 100_000)
    monkeypatch.setattr("gllm.frontend.choices_answer.ChatAnswer.content", lambda *_: huge)
    server.scheduler.script = lambda _submit: [5] * 200
    body = b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "stream": true}'
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(server.listener.getsockname())
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        until(lambda: len(server.scheduler.cancelled) == 1)
        until(lambda: server.gateway._num_open == 0)
    monkeypatch.undo()
