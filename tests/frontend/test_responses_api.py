"""OpenAI's Responses API: its official client, its events, and what a server without a memory refuses."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from http_server import Deployment
from test_http_errors import check
from test_tool_calls import ONE, TWO, WEATHER, shared  # noqa: F401 - the fixture of a model that calls tools

PATH = "/v1/responses"
TOOL: Any = {"type": "function", "strict": None, **WEATHER["function"]}
TIME: Any = {"type": "function", "name": "get_time", "parameters": None, "strict": None}


@pytest.fixture
def client(server: Deployment) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def events_of(server: Deployment, **body: Any) -> list[dict[str, Any]]:
    with server.http.stream("POST", PATH, json={"model": "tiny", "stream": True, **body}) as response:
        response.read()
        assert response.status_code == 200, response.text
    blocks = [block.split("\n", 1) for block in response.text.split("\n\n")[:-1]]
    events: list[dict[str, Any]] = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    assert [name for name, _ in blocks] == [f"event: {event['type']}" for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def without_ids(value: Any) -> Any:
    """What does not differ from one answer to the next."""
    if isinstance(value, dict):
        drop = ("id", "call_id", "created_at", "completed_at")
        return {key: without_ids(item) for key, item in value.items() if key not in drop}
    return [without_ids(item) for item in value] if isinstance(value, list) else value


def test_a_text_is_a_response_object(server: Deployment, client: openai.OpenAI) -> None:
    server.answers("hello you")
    response = client.responses.create(
        model="tiny",
        input="hello",
        instructions="Be kind.",
        max_output_tokens=50,
        temperature=0.5,
        store=False,
    )
    assert response.output_text == "hello you"
    assert (response.status, response.instructions, response.temperature) == ("completed", "Be kind.", 0.5)
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.store is False  # type: ignore[attr-defined]
    (submit,) = server.scheduler.submits
    shown = server.tokenizer.decode(submit.prompt, skip_special_tokens=False)
    assert shown.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhello<|im_end|>")
    assert submit.max_tokens + response.usage.output_tokens == 50


@pytest.mark.parametrize("answer", ["hello you", "", ONE, TWO, f"{ONE} and then {ONE} so."])
def test_the_events_end_with_what_comes_whole(server: Deployment, answer: str) -> None:
    server.answers(answer)
    body = {"input": "hello", "tools": [TOOL, TIME]}
    whole = server.post(PATH, **body).json()
    events = events_of(server, **body)
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1]["type"] == "response.completed"
    assert without_ids(events[-1]["response"]) == without_ids(whole)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    added = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
    assert added == [item["id"] for item in done]
    for item in done:
        mine = [event for event in events if event.get("item_id") == item["id"]]
        deltas = "".join(event["delta"] for event in mine if event["type"].endswith(".delta"))
        assert deltas == (
            item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        )


def test_a_length_makes_a_response_incomplete(server: Deployment, client: openai.OpenAI) -> None:
    server.answers("hello you")
    response = client.responses.create(model="tiny", input="hello", max_output_tokens=2)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    events = events_of(server, input="hello", max_output_tokens=2)
    assert events[-1]["type"] == "response.incomplete"


def test_the_client_streams_and_calls_tools_in_a_conversation(
    server: Deployment, client: openai.OpenAI
) -> None:
    server.answers(ONE)
    with client.responses.stream(model="tiny", input="What is the weather?", tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    (call,) = final.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    server.answers("It is warm.")
    conversation: list[Any] = [
        {"role": "user", "content": [{"type": "input_text", "text": "What is the weather?"}]},
        *[item.to_dict() for item in final.output],
        {"type": "function_call_output", "call_id": call.call_id, "output": "20 degrees"},
    ]
    second = client.responses.create(model="tiny", input=conversation, tools=[TOOL])
    assert second.output_text == "It is warm."
    shown = server.tokenizer.decode(server.scheduler.submits[-1].prompt, skip_special_tokens=False)
    assert f"<|im_start|>assistant\n{ONE}<|im_end|>" in shown
    assert "<tool_response>\n20 degrees\n</tool_response>" in shown
    third = client.responses.create(
        model="tiny", input=[*conversation, *[i.to_dict() for i in second.output], conversation[0]]
    )
    assert third.output_text == "It is warm."


def test_the_async_client_streams(server: Deployment) -> None:
    async def text() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            stream = await client.responses.create(model="tiny", input="hello", stream=True)
            return "".join(
                [event.delta async for event in stream if event.type == "response.output_text.delta"]
            )

    server.answers("hello you")
    assert asyncio.run(text()) == "hello you"


def test_a_failure_of_the_engine_is_500_or_the_last_event(server: Deployment) -> None:
    from gllm.protocol.messages import FinishReason

    server.scheduler.script = lambda _submit: [5, 5, 5]
    server.scheduler.last_reason = FinishReason.ERROR
    check(server.post(PATH, input="hello"), 500, None, "internal_error")
    last = events_of(server, input="hello")[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"]["code"] == "server_error"


UNSUPPORTED = "unsupported_parameter"
REFUSED: list[tuple[dict[str, Any], str, str | None]] = [
    ({"input": None}, "input", None),
    ({"input": []}, "input", None),
    ({"input": [1]}, "input[0]", None),
    ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role", None),
    ({"input": [{"role": "user", "content": 1}]}, "input[0].content", None),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
     "input[0].content[0].type", UNSUPPORTED),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", UNSUPPORTED),
    ({"input": [{"type": "reasoning", "summary": []}]}, "input[0].type", UNSUPPORTED),
    ({"input": [{"type": ["x"]}]}, "input[0].type", UNSUPPORTED),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "["}]},
     "input[0].tool_calls[0].function.arguments", None),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].tool_call_id", None),
    ({"store": True}, "store", UNSUPPORTED),
    ({"background": True}, "background", UNSUPPORTED),
    ({"previous_response_id": "resp_1"}, "previous_response_id", UNSUPPORTED),
    ({"conversation": "conv_1"}, "conversation", UNSUPPORTED),
    ({"prompt": {"id": "x"}}, "prompt", UNSUPPORTED),
    ({"truncation": "auto"}, "truncation", UNSUPPORTED),
    ({"include": ["reasoning.encrypted_content"]}, "include", UNSUPPORTED),
    ({"reasoning": {"effort": "high"}}, "reasoning", UNSUPPORTED),
    ({"text": {"verbosity": "low"}}, "text.verbosity", UNSUPPORTED),
    ({"text": {"x": 1}}, "text", None),
    ({"tools": 5}, "tools", None),
    ({"tools": [5]}, "tools[0]", None),
    ({"tools": [[False, None]]}, "tools[0]", None),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", UNSUPPORTED),
    ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", None),
    ({"tool_choice": {"type": "mcp"}}, "tool_choice", UNSUPPORTED),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name", None),
    ({"max_output_tokens": 0}, "max_output_tokens", None),
    ({"max_tokens": 5}, "max_tokens", "unknown_parameter"),
    ({"messages": []}, "messages", "unknown_parameter"),
    ({"response_format": []}, "response_format", "unknown_parameter"),
    ({"response_format": {"type": "json_object"}}, "response_format", "unknown_parameter"),
    ({"n": 2}, "n", UNSUPPORTED),
    ({"temperature": 3}, "temperature", None),
    ({"max_output_tokens": 2000}, "input", "context_length_exceeded"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "param", "code"), REFUSED, ids=[json.dumps(row[0])[:60] for row in REFUSED]
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_cannot_be_honoured_is_refused_in_the_words_of_this_api(
    server: Deployment, fields: dict[str, Any], param: str, code: str | None, stream: bool
) -> None:
    check(server.post(PATH, **{"input": "hello", "stream": stream, **fields}), 400, param, code)
    assert not server.scheduler.submits


def test_another_model_is_not_found(server: Deployment) -> None:
    check(server.post(PATH, input="hello", model="gpt-4"), 404, "model", "model_not_found")
    check(server.http.get(PATH), 405)
