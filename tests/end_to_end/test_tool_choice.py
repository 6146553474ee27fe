"""A demanded call by the real server: the toy model cannot call tools, but a grammar makes it."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import jsonschema
import openai
import pytest
from served import MODEL, Served, serve

ADD: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/digit"}, "b": {"$ref": "#/$defs/digit"}},
    "required": ["a", "b"],
    "additionalProperties": False,
    "$defs": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}},
}
SPELL: dict[str, Any] = {
    "type": "object",
    "properties": {"word": {"type": "string", "maxLength": 8}, "loud": {"type": "boolean"}},
    "required": ["word", "loud"],
    "additionalProperties": False,
}
SCHEMAS = {"add": ADD, "spell": SPELL}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": schema, "strict": True}}
    for name, schema in SCHEMAS.items()
]
USER: list[Any] = [{"role": "user", "content": "What is 2 + 5?"}]
CHOICES: list[Any] = [
    "required",
    {"type": "function", "function": {"name": "spell"}},
    {"type": "function", "function": {"name": "add"}},
]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serve("--chat-template", "tests/data/chatml_tools.jinja", "--tool-call-parser", "hermes") as served:
        yield served


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("choice", CHOICES, ids=["required", "spell", "add"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_demanded_call_follows_its_schema_streamed_as_whole(
    client: openai.OpenAI, choice: Any, seed: int
) -> None:
    asked: Any = {
        "model": MODEL, "messages": USER, "tools": TOOLS, "tool_choice": choice, "seed": seed,
        "temperature": 1, "max_tokens": 200, "parallel_tool_calls": False,
    }  # fmt: skip
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.tool_calls
    (call,) = whole.message.tool_calls
    assert call.type == "function"
    if choice != "required":
        assert call.function.name == choice["function"]["name"]
    jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    stream = client.chat.completions.create(**asked, stream=True)
    deltas = [chunk.choices[0].delta for chunk in stream]
    first, *more = [call.function for delta in deltas for call in delta.tool_calls or ()]
    assert first is not None
    assert (first.name, first.arguments) == (call.function.name, "")
    pieces = [function.arguments or "" for function in more if function is not None]
    assert "".join(pieces) == call.function.arguments
    assert len(pieces) > 1
    assert not any(delta.content for delta in deltas)


@pytest.mark.parametrize(
    ("choice", "max_tokens"),
    [(CHOICES[0], 1), (CHOICES[0], 12), (CHOICES[0], 28), (CHOICES[1], 1), (CHOICES[1], 6), (CHOICES[1], 12)],
)
def test_a_demanded_call_that_its_length_cuts_off_is_the_same_streamed(
    client: openai.OpenAI, choice: Any, max_tokens: int
) -> None:
    asked: Any = {
        "model": MODEL, "messages": USER, "tools": TOOLS, "tool_choice": choice, "seed": 2,
        "temperature": 1, "max_tokens": max_tokens,
    }  # fmt: skip
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.finish_reason == "length"
    # The client tells in this way of calls that were cut off; its error has what came until then.
    with (
        pytest.raises(openai.LengthFinishReasonError) as cut,
        client.chat.completions.stream(**asked) as stream,
    ):
        stream.until_done()
    streamed = cut.value.completion.choices[0]
    assert streamed.finish_reason == "length"
    assert (streamed.message.content or None) == (whole.message.content or None)
    written = [
        [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        for message in (streamed.message, whole.message)
    ]
    assert written[0] == written[1]
    # A named function's arguments are all there is.
    assert bool(written[0]) is (choice != "required" or max_tokens == 28)


def test_the_responses_api_demands_calls(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", **tool["function"]} for tool in TOOLS]
    asked: Any = {"model": MODEL, "input": "What is 2 + 5?", "tools": tools, "max_output_tokens": 200}
    named = client.responses.create(**asked, tool_choice={"type": "function", "name": "add"})
    (item,) = named.output
    assert item.type == "function_call"
    jsonschema.validate(json.loads(item.arguments), ADD)
    any_of = client.responses.create(**asked, tool_choice="required", parallel_tool_calls=False)
    assert [item.type for item in any_of.output] == ["function_call"]


def test_the_responses_api_holds_text_to_a_schema(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "name": "sum", "schema": ADD, "strict": True}
    asked: Any = {
        "model": MODEL,
        "input": "What is 2 + 5?",
        "text": {"format": form},
        "max_output_tokens": 100,
    }
    whole = client.responses.create(**asked, temperature=0)
    jsonschema.validate(json.loads(whole.output_text), ADD)
    with client.responses.stream(**asked, temperature=0) as stream:
        assert stream.get_final_response().output_text == whole.output_text


def test_the_messages_api_demands_calls(server: Served) -> None:
    tools: Any = [{"name": name, "input_schema": schema} for name, schema in SCHEMAS.items()]
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        asked: Any = {"model": MODEL, "messages": USER, "max_tokens": 200, "tools": tools}
        named = client.messages.create(**asked, tool_choice={"type": "tool", "name": "add"})
        (block,) = named.content
        assert block.type == "tool_use"
        jsonschema.validate(block.input, ADD)
        alone: Any = {"type": "any", "disable_parallel_tool_use": True}
        with client.messages.stream(**asked, tool_choice=alone) as stream:
            (block,) = stream.get_final_message().content
        assert block.type == "tool_use"
        jsonschema.validate(block.input, SCHEMAS[block.name])


def test_strict_tools_leave_the_text_of_an_answer_as_it_is(client: openai.OpenAI) -> None:
    loose: Any = [{"type": "function", "function": tool["function"] | {"strict": False}} for tool in TOOLS]
    texts = [
        client.chat.completions.create(model=MODEL, messages=USER, tools=tools, temperature=0, max_tokens=40)
        .choices[0]
        .message.content
        for tools in (TOOLS, loose)
    ]
    assert texts[0]
    assert texts[0] == texts[1]


def test_what_cannot_be_demanded_is_refused_by_its_name(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": USER, "tool_choice": "required", "tools": TOOLS}
    wrong: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]
    for fields, param in (
        ({"tools": wrong}, "tools[0].function.parameters.type"),
        ({"response_format": {"type": "json_object"}}, "tool_choice"),
        ({"max_tokens": 200, "ignore_eos": True}, "ignore_eos"),
    ):
        extra = {"extra_body": {"ignore_eos": fields.pop("ignore_eos")}} if "ignore_eos" in fields else {}
        with pytest.raises(openai.BadRequestError) as refusal:
            client.chat.completions.create(**{**asked, **fields, **extra})
        assert refusal.value.param == param
