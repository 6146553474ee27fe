"""Calls of tools in streams of all three APIs: their arguments come as they are generated, and make up what
comes whole, wherever the answer ends.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from functools import partial
from typing import Any

import anthropic
import jiter
import openai
import pytest
from http_server import Deployment
from test_responses_api import without_ids
from test_tool_calls import CHAT, ONE, TOOLS, TWO, USER, calls_in, shared  # noqa: F401 - the fixture

from gllm.frontend.adapters.messages_answer import MessagesAnswer
from gllm.frontend.adapters.responses_answer import ResponsesAnswer
from gllm.frontend.answer import Answer, Usage
from gllm.frontend.choices_answer import ChatAnswer
from gllm.frontend.text_output import TextDelta, TextResult
from gllm.frontend.tokenizer import Tokenizer
from gllm.frontend.tool_calls.forms import FORMS, with_calls

LONG = {"city": 'Pa"}r\\is 巴黎 🐢', "days": [1, {"of": [None, {}]}], "text": "line\n" * 9}
WRITTEN = json.dumps(LONG, ensure_ascii=False)
NESTED = f'Ah.\n<tool_call>\n{{"name": "get_weather", "arguments": {WRITTEN}}}\n</tool_call>\n{ONE} So.'
BROKEN = '<tool_call>{"name": "get_time", "arguments": {"a": tomorrow}}</tool_call>'
MESSAGE_TOOLS: Any = [
    {"name": tool["function"]["name"], "input_schema": {"type": "object"}} for tool in TOOLS
]
RESPONSE_TOOLS: Any = [{"type": "function", "name": tool["name"]} for tool in MESSAGE_TOOLS]


# Where TWO is cut off: before, in and behind its calls' arguments, and not at all.
CUTS = [
    "I lo",
    '{"name": "get_w',
    '{"city"',
    ': "Par',
    '"Paris"}',
    "</tool_ca",
    '"get_time", "arguments": {',
    "{}",
    "",
]


def cut_behind(server: Deployment, end: str) -> int:
    """The number of tokens of TWO up to there."""
    server.answers(TWO)
    return len(server.tokenizer.encode(TWO[: TWO.index(end) + len(end)])) if end else 200


def test_each_token_of_the_arguments_is_shown_when_it_is_there(server: Deployment) -> None:
    server.answers(NESTED)
    server.scheduler.tokens_a_commit = 1
    events = server.events(CHAT, messages=USER, tools=TOOLS)
    deltas = [event["choices"][0]["delta"] for event in events]
    pieces = [
        call["function"]["arguments"]
        for delta in deltas
        for call in delta.get("tool_calls", ())
        if call["index"] == 0
    ]
    assert pieces[0] == ""
    assert "".join(pieces) == WRITTEN
    # Characters of several tokens and what a token holds behind the last bracket make some fewer.
    num_tokens = len(server.tokenizer.encode(WRITTEN))
    assert num_tokens * 0.7 < len(pieces) - 1 <= num_tokens + 1


def answered(make: Callable[[], Answer], pieces: Sequence[str], reason: str) -> tuple[Any, list[Any]]:
    """An answer whose text comes in these pieces: whole, and as its events."""

    async def deltas(texts: Sequence[str]) -> AsyncGenerator[TextDelta, None]:
        for number, text in enumerate(texts, 1):
            yield TextDelta(text, [1], finish_reason=reason if number == len(texts) else None)

    async def with_pieces(texts: Sequence[str]) -> list[TextDelta]:
        names = [tool["name"] for tool in RESPONSE_TOOLS]
        stream = with_calls(deltas(texts), partial(FORMS["hermes"], names), True, 1)
        return [delta async for delta in stream]

    usage = Usage(prompt_tokens=3, completion_tokens=len(pieces))
    result = TextResult.of(asyncio.run(with_pieces(["".join(pieces)])))
    whole = json.loads(make().whole([result], usage))
    answer = make()
    events = [answer.opening(1, usage)]
    events += [answer.event(0, delta, usage) for delta in asyncio.run(with_pieces(pieces))]
    blocks = (
        b"".join([*events, answer.closing(usage)]).decode().removesuffix("data: [DONE]\n\n").split("\n\n")
    )
    return whole, [json.loads(block.partition("data: ")[2]) for block in blocks[:-1]]


def cut_anywhere(tokenizer: Tokenizer, text: str) -> Iterator[tuple[list[str], str]]:
    """The texts of the first tokens of `text`, and why it ends there."""
    ids = tokenizer.encode(text)
    for length in range(1, len(ids) + 1):
        detokenizer = tokenizer.detokenizer(True, after=[])
        pieces = [detokenizer.feed([token]) for token in ids[:length]]
        pieces[-1] += detokenizer.finish()
        yield pieces, "length" if length < len(ids) else "stop"


TEXTS = pytest.mark.parametrize("text", [TWO, NESTED, BROKEN])


@TEXTS
def test_a_chat_that_ends_after_any_token_is_the_same_streamed(tokenizer: Tokenizer, text: str) -> None:
    for pieces, reason in cut_anywhere(tokenizer, text):
        whole, events = answered(lambda: ChatAnswer("tiny"), pieces, reason)
        choice, choices = whole["choices"][0], [event["choices"][0] for event in events]
        deltas, message = [choice["delta"] for choice in choices], choice["message"]
        assert "".join(delta.get("content") or "" for delta in deltas) == (message["content"] or "")
        streamed = [call["function"] for call in calls_in(deltas)]
        assert streamed == [call["function"] for call in message.get("tool_calls", [])]
        expected = "length" if reason == "length" else "tool_calls"
        assert choices[-1]["finish_reason"] == choice["finish_reason"] == expected
        assert all(choice["finish_reason"] is None for choice in choices[:-1])


@TEXTS
def test_a_response_that_ends_after_any_token_is_the_same_streamed(tokenizer: Tokenizer, text: str) -> None:
    for pieces, reason in cut_anywhere(tokenizer, text):
        whole, events = answered(lambda: ResponsesAnswer("tiny", {}), pieces, reason)
        streamed = events[-1]["response"]
        assert without_ids(streamed) == without_ids(whole)
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert done == streamed["output"]
        for item in done:
            mine = [event for event in events if event.get("item_id") == item["id"]]
            deltas = [event["delta"] for event in mine if event["type"].endswith(".delta")]
            is_call = item["type"] == "function_call"
            assert "".join(deltas) == (item["arguments"] if is_call else item["content"][0]["text"])


@TEXTS
def test_a_message_that_ends_after_any_token_is_the_same_streamed(tokenizer: Tokenizer, text: str) -> None:
    for pieces, reason in cut_anywhere(tokenizer, text):
        whole, events = answered(lambda: MessagesAnswer("tiny"), pieces, reason)
        blocks: list[Any] = []
        for event in events:
            match event:
                case {"type": "content_block_start", "index": index, "content_block": block}:
                    assert index == len(blocks)
                    blocks.append(block | {"written": ""})
                case {"type": "content_block_delta", "index": index, "delta": delta}:
                    assert index == len(blocks) - 1
                    blocks[-1]["written"] += delta.get("text") or delta["partial_json"]
        assert [block_shown(block) for block in blocks] == [block_shown(block) for block in whole["content"]]
        assert events[-2]["delta"]["stop_reason"] == whole["stop_reason"]
        kinds = [event["type"] for event in events]
        assert kinds.count("content_block_stop") == len(blocks)


def block_shown(block: Any) -> Any:
    """A block, whole or of a stream: its arguments as Anthropic's client reads them where it can."""
    if block["type"] == "text":
        return block.get("written") or block["text"]
    if "written" not in block:
        return block["name"], block["input"]
    try:
        return block["name"], jiter.from_json(block["written"].encode(), partial_mode=True)
    except ValueError:
        return block["name"], {"INVALID_JSON": block["written"]}


def test_an_answer_that_stops_within_its_arguments_says_so(server: Deployment) -> None:
    server.answers(ONE)
    asked: Any = {"messages": USER, "tools": TOOLS, "stop": ["ris"]}
    (choice,) = server.chat(**asked).json()["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "ris")
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Pa'
    assert server.events(CHAT, **asked)[-1]["choices"][0]["finish_reason"] == "stop"
    server.answers(ONE[: ONE.index("ris")])
    assert server.chat(messages=USER, tools=TOOLS).json()["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("end", CUTS)
def test_openais_client_gets_the_same_chat_streamed_wherever_it_ends(server: Deployment, end: str) -> None:
    length = cut_behind(server, end)
    asked: Any = {"model": "tiny", "messages": USER, "tools": TOOLS, "max_tokens": length}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(**asked).choices[0]
        events = []
        with client.chat.completions.stream(**asked) as stream:
            try:
                for event in stream:
                    events.append(event)
                streamed = stream.get_final_completion().choices[0]
            except openai.LengthFinishReasonError as error:  # how it tells of what was cut off
                streamed = error.completion.choices[0]
    assert streamed.finish_reason == whole.finish_reason
    assert (streamed.message.content or None) == whole.message.content
    calls = [
        [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        for message in (streamed.message, whole.message)
    ]
    assert calls[0] == calls[1]
    assert whole.finish_reason == ("length" if end else "tool_calls")
    if end == ': "Par':
        assert calls[0] == [("get_weather", '{"city": "Par')]
    told = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert "".join(event.arguments_delta for event in told) == "".join(written for _, written in calls[0])


@pytest.mark.parametrize("end", CUTS)
def test_openais_client_gets_the_same_response_streamed_wherever_it_ends(
    server: Deployment, end: str
) -> None:
    length = cut_behind(server, end)
    asked: Any = {"model": "tiny", "input": "hello", "tools": RESPONSE_TOOLS, "max_output_tokens": length}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        whole = client.responses.create(**asked)
        with client.responses.stream(**asked) as stream:
            events = list(stream)
    streamed: Any = events[-1]
    assert [shown(item) for item in streamed.response.output] == [shown(item) for item in whole.output]
    assert (streamed.response.status, streamed.response.usage) == (whole.status, whole.usage)


def shown(item: Any) -> Any:
    own = item.content[0].text if item.type == "message" else (item.name, item.arguments)
    return item.type, item.status, own


def test_only_the_call_that_is_cut_off_is_incomplete(server: Deployment) -> None:
    server.answers(TWO)
    num_tokens = len(server.tokenizer.encode(TWO[: TWO.rindex("}}")]))
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        response = client.responses.create(
            model="tiny", input="hello", tools=RESPONSE_TOOLS, max_output_tokens=num_tokens
        )
    assert response.status == "incomplete"
    states = [(item.type, getattr(item, "status", None)) for item in response.output]
    assert states == [
        ("message", "completed"),
        ("function_call", "completed"),
        ("function_call", "incomplete"),
    ]


@pytest.mark.parametrize("end", CUTS)
def test_anthropics_client_gets_the_same_message_streamed_wherever_it_ends(
    server: Deployment, end: str
) -> None:
    length = cut_behind(server, end)
    asked: Any = {"model": "tiny", "messages": USER, "tools": MESSAGE_TOOLS, "max_tokens": length}
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
    exclude: Any = {"content": {"__all__": {"id"}}, "id": True}
    assert streamed.model_dump(exclude=exclude) == whole.model_dump(exclude=exclude)


def test_a_message_tells_of_arguments_that_are_no_json(server: Deployment) -> None:
    server.answers(BROKEN)
    asked: Any = {"model": "tiny", "messages": USER, "tools": MESSAGE_TOOLS, "max_tokens": 200}
    answer = server.post("/v1/messages", **asked).json()
    (block,) = answer["content"]
    assert (block["name"], block["input"]) == ("get_time", {"INVALID_JSON": '{"a": tomorrow}'})
    assert answer["stop_reason"] == "tool_use"
    response = server.post("/v1/messages", **asked, stream=True)
    events = [json.loads(block.split("\ndata: ")[1]) for block in response.text.split("\n\n")[:-1]]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta["partial_json"] for delta in deltas) == '{"a": tomorrow}'
