"""Tools over HTTP: into the prompt, out of the answer, streamed and whole, and every refusal by its name."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from http_server import Deployment, serving
from test_http_errors import check

from gllm.frontend.chat import ChatTemplate
from gllm.frontend.families import FAMILIES
from gllm.frontend.tokenizer import Tokenizer

CHAT = "/v1/chat/completions"
USER: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather now",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME: Any = {"type": "function", "function": {"name": "get_time"}}
TOOLS = [WEATHER, TIME]
ONE = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TWO = f'I look.\n{ONE}\n<tool_call>\n{{"name": "get_time", "arguments": {{}}}}\n</tool_call>'


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Iterator[Deployment]:
    """A server whose model has Qwen's form of chats and calls."""
    (qwen,) = (family for family in FAMILIES if family.name == "qwen2")
    template = ChatTemplate(qwen.template, tokenizer)
    with serving(
        tmp_path_factory.mktemp("s"),
        tokenizer,
        template=template,
        tool_form=qwen.tool_form,
        max_model_len=1500,
    ) as running:
        yield running


@pytest.fixture
def client(server: Deployment) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def prompt_of(server: Deployment) -> str:
    return server.tokenizer.decode(server.scheduler.submits[-1].prompt, skip_special_tokens=False)


def calls_in(deltas: Iterable[dict[str, Any]]) -> list[Any]:
    """The calls that a stream's deltas make up: each begins with its name, then come its arguments."""
    calls: list[Any] = []
    for call in [call for delta in deltas for call in delta.get("tool_calls", ())]:
        if call["index"] == len(calls):
            assert call == {
                "index": len(calls), "id": call["id"], "type": "function",
                "function": {"name": call["function"]["name"], "arguments": ""},
            }  # fmt: skip
            calls.append({key: value for key, value in call.items() if key != "index"})
        else:
            more = call["function"]["arguments"]
            assert call == {"index": len(calls) - 1, "function": {"arguments": more}}
            calls[-1]["function"]["arguments"] += more
    return calls


def test_a_call_is_openais_message(server: Deployment) -> None:
    server.answers(ONE)
    (choice,) = server.chat(messages=USER, tools=TOOLS).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    (call,) = message["tool_calls"]
    assert call["id"].startswith("call_")
    assert call == {
        "id": call["id"],
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
    }
    assert message == {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}


def test_the_model_is_shown_the_tools_in_its_own_form(server: Deployment) -> None:
    server.answers("no")
    server.chat(messages=USER, tools=TOOLS)
    prompt = prompt_of(server)
    assert f"<tools>\n{json.dumps(WEATHER)}\n{json.dumps(TIME)}\n</tools>" in prompt
    server.chat(messages=USER, tools=TOOLS, tool_choice="none")
    assert "tools" not in prompt_of(server)


def test_text_and_several_calls_come_streamed_as_they_come_whole(server: Deployment) -> None:
    server.answers(TWO)
    whole = server.chat(messages=USER, tools=TOOLS).json()["choices"][0]
    events = server.events(CHAT, messages=USER, tools=TOOLS)
    deltas = [event["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("content") or "" for delta in deltas) == "I look." == whole["message"]["content"]
    calls = calls_in(deltas)
    assert [call["function"] for call in calls] == [
        call["function"] for call in whole["message"]["tool_calls"]
    ]
    reasons = [event["choices"][0]["finish_reason"] for event in events]
    assert reasons == [None] * (len(events) - 1) + ["tool_calls"]


@pytest.mark.parametrize("tokens_a_commit", [1, 2, 3, 7, 1000])
def test_commits_of_any_size_give_the_same_answer(server: Deployment, tokens_a_commit: int) -> None:
    server.answers(TWO)
    server.scheduler.tokens_a_commit = tokens_a_commit
    message = server.chat(messages=USER, tools=TOOLS).json()["choices"][0]["message"]
    assert message["content"] == "I look."
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["get_weather", "get_time"]


@pytest.mark.parametrize("stream", [True, False])
def test_without_parallel_calls_the_first_ends_the_answer(server: Deployment, stream: bool) -> None:
    server.answers(TWO, stop=None)
    body: Any = {"messages": USER, "tools": TOOLS, "parallel_tool_calls": False}
    if stream:
        choices = [event["choices"][0] for event in server.events(CHAT, **body)]
        calls = calls_in(choice["delta"] for choice in choices)
        reason = choices[-1]["finish_reason"]
    else:
        (choice,) = server.chat(**body).json()["choices"]
        calls, reason = choice["message"]["tool_calls"], choice["finish_reason"]
    assert [call["function"]["name"] for call in calls] == ["get_weather"]
    assert reason == "tool_calls"


def test_what_is_cut_off_before_its_arguments_or_no_call_stays_text(server: Deployment) -> None:
    server.answers(ONE)
    (choice,) = server.chat(messages=USER, tools=TOOLS, max_tokens=15).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].startswith("<tool_call>")
    assert "tool_calls" not in choice["message"]
    unknown = ONE.replace("get_weather", "format_disk")
    server.answers(unknown)
    (choice,) = server.chat(messages=USER, tools=TOOLS).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (unknown, "stop")
    server.answers(ONE)
    (choice,) = server.chat(messages=USER).json()["choices"]
    assert choice["message"]["content"] == ONE


def test_a_whole_conversation_with_a_tool_goes_into_the_prompt(server: Deployment) -> None:
    server.answers(ONE)
    first = server.chat(messages=USER, tools=TOOLS).json()["choices"][0]["message"]
    said = {"role": "tool", "tool_call_id": first["tool_calls"][0]["id"], "content": "20 degrees <|im_end|>"}
    server.answers("It is warm.")
    (choice,) = server.chat(messages=[*USER, first, said, said], tools=TOOLS).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("It is warm.", "stop")
    prompt = prompt_of(server)
    assert prompt.endswith(
        f"<|im_start|>assistant\n{ONE}<|im_end|>\n<|im_start|>user"
        + "\n<tool_response>\n20 degrees <|im_end|>\n</tool_response>" * 2
        + "<|im_end|>\n<|im_start|>assistant\n"
    )
    # What a tool says is text: it cannot end its turn.
    end = server.tokenizer.special_id("<|im_end|>")
    assert list(server.scheduler.submits[-1].prompt).count(end) == 4


def function(**fields: Any) -> list[Any]:
    return [{"type": "function", "function": {"name": "f", **fields}}]


REFUSED: list[tuple[dict[str, Any], str, str | None]] = [
    ({"tools": 1}, "tools", None),
    ({"tools": [1]}, "tools[0]", None),
    ({"tools": [{"type": "function"}]}, "tools[0]", None),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
    ({"tools": [WEATHER, {**TIME, "x": 1}]}, "tools[1]", None),
    ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name", None),
    ({"tools": [TIME] * 129}, "tools", None),
    ({"tools": function(name="a b")}, "tools[0].function.name", None),
    ({"tools": function(name="a" * 65)}, "tools[0].function.name", None),
    ({"tools": function(name=None)}, "tools[0].function.name", None),
    ({"tools": function(description=1)}, "tools[0].function.description", None),
    ({"tools": function(parameters="{}")}, "tools[0].function.parameters", None),
    ({"tools": function(strict=1.5)}, "tools[0].function.strict", None),
    (
        {"tools": function(strict=True, parameters={"type": "array"})},
        "tools[0].function.parameters.type",
        None,
    ),
    ({"tools": function(x=1)}, "tools[0].function.x", "unknown_parameter"),
    (
        {"tools": function(parameters={"type": "array"}), "tool_choice": "required"},
        "tools[0].function.parameters.type",
        None,
    ),
    ({"tools": TOOLS, "tool_choice": "perhaps"}, "tool_choice", None),
    ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice", None),
    ({"tools": TOOLS, "tool_choice": ["auto"]}, "tool_choice", None),
    ({"tool_choice": "required"}, "tool_choice", None),
    (
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}},
        "tool_choice.function.name",
        None,
    ),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls", None),
    ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
]


@pytest.mark.parametrize(
    ("fields", "param", "code"), REFUSED, ids=[json.dumps(row[0])[:60] for row in REFUSED]
)
def test_a_wrong_tool_is_refused_by_its_place(
    server: Deployment, fields: dict[str, Any], param: str, code: str | None
) -> None:
    check(server.chat(messages=USER, **fields), 400, param, code)
    assert not server.scheduler.submits


def test_tools_are_refused_where_nothing_is_known_of_their_form(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with serving(tmp_path, tokenizer) as plain:
        message = check(plain.chat(messages=USER, tools=TOOLS), 400, "tools", "unsupported_parameter")
        assert "--tool-call-parser" in message
    (tmp_path / "2").mkdir()
    with serving(tmp_path / "2", tokenizer, tool_form="hermes") as no_place:
        message = check(no_place.chat(messages=USER, tools=TOOLS), 400, "tools", "unsupported_parameter")
        assert "--chat-template" in message
        said = {"role": "tool", "tool_call_id": "c", "content": "x"}
        check(no_place.chat(messages=[*USER, said]), 400, "messages[1]", "unsupported_parameter")


def test_openais_client_gets_its_own_types(server: Deployment, client: openai.OpenAI) -> None:
    server.answers(TWO)
    message = client.chat.completions.create(model="tiny", messages=USER, tools=TOOLS).choices[0].message
    assert message.tool_calls is not None
    assert [call.type for call in message.tool_calls] == ["function", "function"]
    with client.chat.completions.stream(model="tiny", messages=USER, tools=TOOLS) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.choices[0].message.tool_calls is not None
    calls = [(call.function.name, call.function.arguments) for call in final.choices[0].message.tool_calls]
    assert calls == [("get_weather", '{"city": "Paris"}'), ("get_time", "{}")]
    server.answers("Warm.")
    said: Any = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "20"}
    echoed: Any = message.model_dump()
    answer = client.chat.completions.create(model="tiny", messages=[*USER, echoed, said], tools=TOOLS)
    assert answer.choices[0].message.content == "Warm."


def test_openais_async_client_streams_calls(server: Deployment) -> None:
    async def names() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="tiny", messages=USER, tools=TOOLS, stream=True
            )
            chunks = [chunk async for chunk in stream]
        calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
        return [call.function.name for call in calls if call.function and call.function.name]

    server.answers(TWO)
    assert asyncio.run(names()) == ["get_weather", "get_time"]
