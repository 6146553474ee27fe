"""Every mistake of a client, and every failure of ours: its status, type, code, param, and life goes on."""

import json
from typing import Any

import pytest
from http_server import Deployment

from gllm.protocol.messages import FinishReason, RejectCode, Rejected

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
INVALID = "invalid_request_error"


def check(response: Any, status: int, param: str | None = None, code: str | None = None) -> str:
    """The message of an error of this form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("server_error" if status >= 500 else INVALID)
    assert (error["param"], error["code"]) == (param, code)
    assert len(response.content) < 2000
    assert "Traceback" not in error["message"]
    assert "/work" not in error["message"]
    message: str = error["message"]
    return message


NOT_JSON: list[bytes] = [
    b"",
    b"{",
    b"[]",
    b'"x"',
    b"{'model': 1}",
    b'{"model": "tiny", "prompt": "a", "temperature": NaN}',
    b'{"model": "tiny", "prompt": "a", "temperature": -Infinity}',
    b'{"model": "tiny", "prompt": "a", "temperature": 1e999}',
    b'{"model": "tiny", "prompt": "a", "seed": ' + b"9" * 5000 + b"}",
    b'{"model": "tiny", "prompt": "a", "user": ' + b"[" * 100 + b"]" * 100 + b"}",
    b'{"model": "tiny", "prompt": ' + b"[" * 40_000 + b"]" * 40_000 + b"}",
    b'{"model": "tiny", "prompt": "\\ud800"}',
    b'{"model": "tiny", "prompt": "a", "stop": "\\uDFFF"}',
    b'{"\\ud800": "tiny", "prompt": "a"}',
    b'{"model": "tiny", "prompt": "\xff"}',
    '{"model": "tiny"}'.encode("utf-16"),
    b'\xef\xbb\xbf{"model": "tiny"}',
]


@pytest.mark.parametrize("body", NOT_JSON, ids=range(len(NOT_JSON)))
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_what_is_not_json_is_refused(server: Deployment, path: str, body: bytes) -> None:
    response = server.http.post(path, content=body, headers={"content-type": "application/json"})
    check(response, 400, None, "invalid_json")


def test_a_whole_surrogate_pair_is_a_character(server: Deployment) -> None:
    server.answers("x")
    body = b'{"model": "tiny", "prompt": "\\ud83d\\ude00"}'
    response = server.http.post(COMPLETIONS, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_content_type_is_refused_with_the_right_one(server: Deployment, content_type: str) -> None:
    response = server.http.post(COMPLETIONS, content=b"{}", headers={"content-type": content_type})
    assert "application/json" in check(response, 400, None, "invalid_json")


VALUES: list[tuple[dict[str, Any], str, str | None]] = [
    ({"model": 1}, "model", None),
    ({"temperature": "1"}, "temperature", None),
    ({"temperature": True}, "temperature", None),
    ({"temperature": -0.1}, "temperature", None),
    ({"temperature": 2.1}, "temperature", None),
    ({"top_p": 0}, "top_p", None),
    ({"top_p": 1.01}, "top_p", None),
    ({"top_k": -2}, "top_k", None),
    ({"top_k": 2**31}, "top_k", None),
    ({"top_k": 1.0}, "top_k", None),
    ({"seed": 2**63}, "seed", None),
    ({"seed": 1.5}, "seed", None),
    ({"max_tokens": 0}, "max_tokens", None),
    ({"max_tokens": "5"}, "max_tokens", None),
    ({"max_tokens": 5.0}, "max_tokens", None),
    ({"max_tokens": True}, "max_tokens", None),
    ({"max_tokens": 2**63}, "max_tokens", None),
    ({"stop": 1}, "stop", None),
    ({"stop": [""]}, "stop", None),
    ({"stop": ["a", 1]}, "stop", None),
    ({"stop": ["a"] * 5}, "stop", None),
    ({"stop": "x" * 21}, "stop", None),
    ({"stop_token_ids": [-1]}, "stop_token_ids", None),
    ({"stop_token_ids": ["1"]}, "stop_token_ids[0]", None),
    ({"stop_token_ids": [1] * 2000}, "stop_token_ids", None),
    ({"ignore_eos": 1}, "ignore_eos", None),
    ({"stream": "yes"}, "stream", None),
    ({"stream_options": {"include_usage": True}}, "stream_options", None),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", None),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
    ({"n": 0}, "n", None),
    ({"n": 9}, "n", None),
    ({"n": True}, "n", None),
    ({"presence_penalty": 2.1}, "presence_penalty", None),
    ({"presence_penalty": "1"}, "presence_penalty", None),
    ({"frequency_penalty": -3}, "frequency_penalty", None),
    ({"repetition_penalty": 0}, "repetition_penalty", None),
    ({"repetition_penalty": 1e9}, "repetition_penalty", None),
    ({"min_p": 1.1}, "min_p", None),
    ({"min_p": -0.1}, "min_p", None),
    ({"min_tokens": -1}, "min_tokens", None),
    ({"min_tokens": 6, "max_tokens": 5}, "min_tokens", None),
    ({"min_tokens": 1, "allowed_token_ids": [0], "stop_token_ids": [0]}, "allowed_token_ids", None),
    ({"logit_bias": {"5": 101}}, "logit_bias", None),
    ({"logit_bias": {"x": 1}}, "logit_bias", None),
    ({"logit_bias": {"-1": 1}}, "logit_bias", None),
    ({"logit_bias": {"5": "1"}}, "logit_bias.5", None),
    ({"logit_bias": {"9999": 1}}, "logit_bias", None),
    ({"logit_bias": {str(n): 1 for n in range(1100)}}, "logit_bias", None),
    ({"allowed_token_ids": []}, "allowed_token_ids", None),
    ({"allowed_token_ids": [9999]}, "allowed_token_ids", None),
    ({"bad_words": [""]}, "bad_words", None),
    ({"bad_words": [1]}, "bad_words[0]", None),
    ({"bad_words": ["a"] * 600}, "bad_words", None),
    ({"bad_words": ["abcdefgh" * 20]}, "bad_words", None),
    ({"prompt_logprobs": -1}, "prompt_logprobs", None),
    ({"prompt_logprobs": 6}, "prompt_logprobs", None),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", None),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", None),
    ({"include_stop_str_in_output": 1}, "include_stop_str_in_output", None),
    ({"return_token_ids": "yes"}, "return_token_ids", None),
    ({"request_id": "a b"}, "request_id", None),
    ({"request_id": "a" * 200}, "request_id", None),
    ({"suffix": "x"}, "suffix", "unsupported_parameter"),
    ({"chat_template": "x"}, "chat_template", "unsupported_parameter"),
    ({"service_tier": "flex"}, "service_tier", "unsupported_parameter"),
    ({"temprature": 1}, "temprature", "unknown_parameter"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "param", "code"), VALUES, ids=[json.dumps(fields)[:50] for fields, *_ in VALUES]
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_wrong_value_is_refused_by_its_name(
    server: Deployment, path: str, fields: dict[str, Any], param: str, code: str | None
) -> None:
    send = server.chat if path == CHAT else server.complete
    check(send(**fields), 400, param, code)
    assert not server.scheduler.submits


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"logprobs": 2}, "logprobs", None),
        ({"top_logprobs": 3}, "top_logprobs", None),
        ({"top_logprobs": 6, "logprobs": True}, "top_logprobs", None),
        ({"top_logprobs": -1, "logprobs": True}, "top_logprobs", None),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"echo": True}, "echo", "unsupported_parameter"),
        ({"chat_template_kwargs": {"unknown": 1}}, "chat_template_kwargs", None),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", None),
    ],
)
def test_a_wrong_value_in_a_chat_is_refused_by_its_name(
    server: Deployment, fields: dict[str, Any], param: str, code: str | None
) -> None:
    check(server.chat(**fields), 400, param, code)
    assert not server.scheduler.submits


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"logprobs": True}, "logprobs", None),
        ({"logprobs": 6}, "logprobs", None),
        ({"logprobs": -1}, "logprobs", None),
        ({"top_logprobs": 3}, "top_logprobs", "unsupported_parameter"),
        ({"best_of": 2, "n": 3}, "best_of", None),
        ({"best_of": 9}, "best_of", None),
        ({"best_of": 2, "stream": True}, "best_of", None),
        ({"max_tokens": -1, "echo": True}, "max_tokens", None),
        ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs", "unsupported_parameter"),
    ],
)
def test_a_wrong_value_in_a_completion_is_refused_by_its_name(
    server: Deployment, fields: dict[str, Any], param: str, code: str | None
) -> None:
    check(server.complete(**fields), 400, param, code)
    assert not server.scheduler.submits


def test_an_unknown_field_is_answered_with_the_nearest_known_one(server: Deployment) -> None:
    message = check(server.complete(temprature=1), 400, "temprature", "unknown_parameter")
    assert "did you mean temperature?" in message
    check(server.complete(zzzzzzzz=1), 400, "zzzzzzzz", "unknown_parameter")


@pytest.mark.parametrize(
    "prompt",
    [None, 1, True, {}, [], [[]], ["a", 1], [1, "a"], [[1], "a"], [[1.0]], [True], ["a"] * 9, [-1], [10**6]],
)
def test_what_is_no_prompt_is_refused(server: Deployment, prompt: Any) -> None:
    check(server.complete(prompt=prompt), 400, "prompt")


def test_missing_fields_are_named(server: Deployment) -> None:
    assert "missing" in check(server.post(COMPLETIONS), 400, "prompt")
    assert "missing" in check(server.post(CHAT), 400, "messages")
    assert "missing" in check(server.http.post(CHAT, json={"messages": []}), 400, "model")


def test_an_empty_prompt_or_chat_is_told_what_to_do(server: Deployment) -> None:
    assert "at least one" in check(server.complete(prompt=""), 400, "prompt")
    assert "at least one message" in check(server.chat(messages=[]), 400, "messages")
    check(server.chat(messages=[{"role": "user", "content": 5}]), 400, "messages[0].content")


def test_both_names_of_max_tokens_must_agree(server: Deployment) -> None:
    check(server.chat(max_tokens=5, max_completion_tokens=6), 400, "max_tokens")
    check(server.chat(max_completion_tokens=0), 400, "max_completion_tokens")


@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(
    server: Deployment, stream: bool
) -> None:
    code = "context_length_exceeded"
    message = check(server.complete(prompt=[5] * 256, stream=stream), 400, "prompt", code)
    assert message.startswith("This model's maximum context length is 256 tokens. However, ")
    message = check(server.complete(prompt=[5] * 200, max_tokens=57, stream=stream), 400, "prompt", code)
    assert "you requested 257 tokens (200 in the prompt; 57 for the completion)" in message
    chat = [{"role": "user", "content": "x" * 300}]
    check(server.chat(messages=chat, stream=stream), 400, "messages", code)
    check(server.complete(prompt=[[5], [5] * 256], stream=stream), 400, "prompt", code)
    assert not server.scheduler.submits


def test_another_model_is_not_found(server: Deployment) -> None:
    for response in (
        server.complete(model="gpt-4"),
        server.chat(model="x" * 5000),
        server.http.get("/v1/models/gpt-4"),
    ):
        check(response, 404, "model", "model_not_found")


def test_unknown_routes_and_methods_have_the_form_too(server: Deployment) -> None:
    check(server.http.get("/"), 404)
    check(server.http.get("/v1/" + "x" * 5000), 404)
    check(server.http.post("/v1/modelsx", content=b"x" * 50_000), 404)
    assert "use POST" in check(server.http.get(CHAT), 405)
    assert server.http.put("/health").headers["allow"] == "GET, HEAD"


def test_a_large_body_is_refused_by_its_length_and_while_it_is_read(server: Deployment) -> None:
    large = b'{"prompt": "' + b"x" * 200_000 + b'"}'
    headers = {"content-type": "application/json"}
    assert "100000 bytes" in check(server.http.post(COMPLETIONS, content=large, headers=headers), 413)
    pieces = (large[start : start + 10_000] for start in range(0, len(large), 10_000))
    check(server.http.post(COMPLETIONS, content=pieces, headers=headers), 413)


def test_errors_do_not_echo_much_of_what_was_sent(server: Deployment) -> None:
    check(server.complete(**{"x" * 50_000: 1}), 400, "x" * 200, "unknown_parameter")
    check(server.complete(temperature="x" * 50_000), 400, "temperature")
    check(server.complete(top_k=10**4000), 400, "top_k")
    message = {"role": "user", "content": "a", "y" * 50_000: 1}
    check(server.chat(messages=[message]), 400, f"messages[0].{'y' * 80}", "unknown_parameter")


@pytest.mark.parametrize("stream", [True, False])
def test_the_schedulers_refusals_have_their_status(server: Deployment, stream: bool) -> None:
    for code, status, param, word in (
        (RejectCode.OVERLOADED, 503, None, "overloaded"),
        (RejectCode.TOO_LONG, 400, "prompt", "context_length_exceeded"),
        (RejectCode.INVALID, 400, None, None),
        (RejectCode.TIMEOUT, 504, None, "timeout"),
    ):
        server.scheduler.reject = Rejected(0, code, "a sentence of the scheduler")
        response = server.complete(stream=stream)
        assert check(response, status, param, word) == "a sentence of the scheduler"
        assert ("retry-after" in response.headers) == (status == 503)
    server.scheduler.reject = Rejected(0, RejectCode.TOO_LONG, "a sentence of the scheduler")
    check(server.chat(stream=stream), 400, "messages", "context_length_exceeded")


def test_a_failure_of_the_engine_is_500_or_the_last_event(server: Deployment) -> None:
    server.scheduler.script = lambda _submit: [5, 5, 5]
    server.scheduler.last_reason = FinishReason.ERROR
    check(server.complete(), 500, None, "internal_error")
    *events, last = server.events(COMPLETIONS, prompt="hello")
    assert all(event["choices"][0]["finish_reason"] is None for event in events)
    assert last["error"]["code"] == "internal_error"
    assert last["error"]["type"] == "server_error"


def test_an_abort_by_the_engine_is_told(server: Deployment) -> None:
    server.scheduler.script = lambda _submit: [5, 5]
    server.scheduler.last_reason = FinishReason.ABORT
    assert server.complete().json()["choices"][0]["finish_reason"] == "abort"


def test_a_failure_of_ours_is_500_and_says_nothing_of_its_inside(
    server: Deployment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a secret at /home/somebody")

    monkeypatch.setattr(type(server.tokenizer), "encode", fail)
    message = check(server.complete(), 500, None, "internal_error")
    assert "secret" not in message
    assert "a secret" in caplog.text
    monkeypatch.undo()


def test_a_chat_without_a_template_says_how_to_give_one(server: Deployment) -> None:
    jobs = server.gateway.service.jobs
    template, jobs._template = jobs._template, None
    assert "--chat-template" in check(server.chat(), 400, "messages")
    jobs._template = template
