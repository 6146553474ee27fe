"""Anthropic's Messages API: its official client, its events, its errors."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from http_server import Deployment
from test_tool_calls import ONE, TWO, WEATHER, shared  # noqa: F401 - the fixture of a model that calls tools

from gllm.protocol.messages import FinishReason, RejectCode, Rejected

PATH = "/v1/messages"
USER: list[Any] = [{"role": "user", "content": "hello"}]
TOOL: Any = {
    "name": "get_weather",
    "description": WEATHER["function"]["description"],
    "input_schema": WEATHER["function"]["parameters"],
}
TIME: Any = {"name": "get_time", "input_schema": {"type": "object"}}


@pytest.fixture
def client(server: Deployment) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def send(server: Deployment, **body: Any) -> Any:
    return server.post(PATH, **{"messages": USER, "max_tokens": 400, **body})


def check(response: Any, status: int, kind: str) -> str:
    """The sentence of an error in Anthropic's form."""
    assert response.status_code == status, response.text
    answer = response.json()
    assert answer.keys() == {"type", "error"}
    assert answer["type"] == "error"
    assert answer["error"].keys() == {"type", "message"}
    assert answer["error"]["type"] == kind
    assert len(response.content) < 2000
    sentence: str = answer["error"]["message"]
    return sentence


def prompt_of(server: Deployment) -> str:
    return server.tokenizer.decode(server.scheduler.submits[-1].prompt, skip_special_tokens=False)


def test_a_text_is_a_message(server: Deployment, client: anthropic.Anthropic) -> None:
    server.answers("hello you")
    server.scheduler.num_cached_tokens = 3
    message = client.messages.create(
        model="tiny", max_tokens=50, system="Be kind.", messages=USER, extra_body={"top_k": 5}
    )
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].text == "hello you"  # type: ignore[union-attr]
    assert (message.role, message.stop_reason, message.stop_sequence) == ("assistant", "end_turn", None)
    (submit,) = server.scheduler.submits
    assert message.usage.cache_read_input_tokens == 3
    assert message.usage.input_tokens + 3 == len(submit.prompt)
    assert message.usage.output_tokens == 50 - submit.max_tokens
    assert submit.sampling.top_k == 5
    assert prompt_of(server).startswith(
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhello<|im_end|>"
    )


@pytest.mark.parametrize("answer", ["hello you", "", ONE, TWO, f"{ONE} and then {ONE} so."])
def test_the_events_make_up_what_comes_whole(
    server: Deployment, client: anthropic.Anthropic, answer: str
) -> None:
    server.answers(answer)
    body: Any = {"model": "tiny", "max_tokens": 400, "messages": USER, "tools": [TOOL, TIME]}
    whole = client.messages.create(**body)
    with client.messages.stream(**body) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()

    def shown(message: Any) -> Any:
        return [
            (block.type, block.text if block.type == "text" else (block.name, block.input))
            for block in message.content
        ]

    assert shown(streamed) == shown(whole)
    assert (streamed.stop_reason, streamed.usage) == (whole.stop_reason, whole.usage)
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == len(whole.content)


def test_raw_events_have_their_names_and_order(server: Deployment) -> None:
    server.answers("hi")
    lines = send(server, stream=True).text.split("\n\n")[:-1]
    names = [line.split("\n")[0].removeprefix("event: ") for line in lines]
    assert names == [
        "message_start", "content_block_start", *["content_block_delta"] * (len(names) - 5),
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    for name, line in zip(names, lines, strict=True):
        assert json.loads(line.split("\ndata: ")[1])["type"] == name


def test_why_an_answer_ends_is_told(server: Deployment, client: anthropic.Anthropic) -> None:
    server.answers("hello world")
    stopped = client.messages.create(model="tiny", max_tokens=50, messages=USER, stop_sequences=[" wor"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", " wor")
    short = client.messages.create(model="tiny", max_tokens=1, messages=USER)
    assert short.stop_reason == "max_tokens"
    server.answers(ONE)
    called = client.messages.create(model="tiny", max_tokens=400, messages=USER, tools=[TOOL])
    assert called.stop_reason == "tool_use"


def test_a_conversation_with_tools_goes_into_the_prompt(
    server: Deployment, client: anthropic.Anthropic
) -> None:
    server.answers(ONE)
    first = client.messages.create(model="tiny", max_tokens=400, messages=USER, tools=[TOOL])
    (use,) = first.content
    assert use.type == "tool_use"
    server.answers("Warm.")
    result: Any = {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": use.id,
                "content": [{"type": "text", "text": "20 degrees"}],
            },
            {"type": "tool_result", "tool_use_id": use.id, "content": "no net", "is_error": True},
            {"type": "text", "text": "Well?", "cache_control": {"type": "ephemeral"}},
        ],
    }
    echoed: Any = {"role": "assistant", "content": [block.to_dict() for block in first.content]}
    client.messages.create(model="tiny", max_tokens=400, messages=[*USER, echoed, result], tools=[TOOL])
    assert prompt_of(server).endswith(
        f"<|im_start|>assistant\n{ONE}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n20 degrees\n</tool_response>"
        "\n<tool_response>\nError: no net\n</tool_response><|im_end|>\n"
        "<|im_start|>user\nWell?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_words_put_into_the_models_mouth_are_gone_on_with(server: Deployment) -> None:
    server.answers(" two")
    answer = send(server, messages=[*USER, {"role": "assistant", "content": "One,"}]).json()
    assert answer["content"] == [{"type": "text", "text": " two"}]
    assert prompt_of(server).endswith("<|im_start|>assistant\nOne,")


def test_tokens_are_counted_as_they_are_generated_from(
    server: Deployment, client: anthropic.Anthropic
) -> None:
    server.answers("x")
    count = client.messages.count_tokens(model="tiny", system="Be kind.", messages=USER, tools=[TOOL])
    send(server, system="Be kind.", tools=[TOOL])
    assert count.input_tokens == len(server.scheduler.submits[-1].prompt)


def test_the_async_client_streams(server: Deployment) -> None:
    async def text() -> str:
        async with (
            anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0) as client,
            client.messages.stream(model="tiny", max_tokens=50, messages=USER) as stream,
        ):
            return "".join([piece async for piece in stream.text_stream])

    server.answers("hello you")
    assert asyncio.run(text()) == "hello you"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, "messages[0].content[0]"),
    (
        {"messages": [*USER, {"role": "assistant", "content": [{"type": "tool_use", "input": 1}]}]},
        "messages[1].content[0].input",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
        "messages[0].content[0].tool_call_id",
    ),
    ({"system": 1}, "system"),
    ({"system": [{"type": "image"}]}, "system[0]"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"stop": ["x"]}, "stop"),
    ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking"),
    ({"tools": 5}, "tools"),
    ({"tools": [5, []]}, "tools[0]"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
    ({"tools": [{"name": "f", "input_schema": 1}]}, "tools[0].input_schema"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"temperature": 3}, "temperature"),
    ({"n": 2}, "n"),
    ({"colour": 1}, "colour"),
    ({"max_tokens": 2000}, "maximum context length"),
]


@pytest.mark.parametrize(("fields", "word"), REFUSED, ids=[json.dumps(row[0])[:60] for row in REFUSED])
def test_what_cannot_be_honoured_is_refused_in_the_form_and_words_of_this_api(
    server: Deployment, fields: dict[str, Any], word: str
) -> None:
    assert word in check(send(server, **fields), 400, "invalid_request_error")
    assert not server.scheduler.submits


def test_other_errors_have_their_type(server: Deployment, client: anthropic.Anthropic) -> None:
    check(send(server, model="claude"), 404, "not_found_error")
    body = b'{"x": "' + b"x" * 200_000 + b'"}'
    headers = {"content-type": "application/json"}
    check(server.http.post(PATH, content=body, headers=headers), 413, "request_too_large")
    check(server.http.post(PATH, content=b"{", headers=headers), 400, "invalid_request_error")
    check(server.post(f"{PATH}/count_tokens", messages=USER, x=1), 400, "invalid_request_error")
    server.scheduler.reject = Rejected(0, RejectCode.OVERLOADED, "a sentence")
    check(send(server), 503, "overloaded_error")
    server.scheduler.reject = None
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="claude", max_tokens=5, messages=USER)
    server.scheduler.script = lambda _submit: [5, 5, 5]
    server.scheduler.last_reason = FinishReason.ERROR
    check(send(server), 500, "api_error")
    *_, last, _ = send(server, stream=True).text.split("\n\n")
    assert last.startswith("event: error\ndata: ")
    assert json.loads(last.split("data: ")[1])["error"]["type"] == "api_error"
