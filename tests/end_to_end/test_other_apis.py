"""The demo model behind OpenAI's Responses API and Anthropic's Messages API, by their official clients."""

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from served import MODEL, Served, serve

QUESTION = "What is 23 + 45?"
USER: list[Any] = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serve() as served:
        yield served


@pytest.fixture(scope="module")
def expected(server: Served) -> str:
    """What the demo model says, by the route that the others translate to."""
    body = {"model": MODEL, "messages": USER, "temperature": 0, "max_tokens": 40}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    content: str = answer["choices"][0]["message"]["content"]
    assert "68" in content
    return content


def test_the_responses_api_sync_and_streamed(server: Served, expected: str) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        asked: Any = {"model": MODEL, "input": QUESTION, "temperature": 0, "max_output_tokens": 40}
        whole = client.responses.create(**asked)
        assert whole.output_text == expected
        with client.responses.stream(**asked) as stream:
            deltas = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            final = stream.get_final_response()
        assert deltas == final.output_text == expected
        assert final.usage is not None
        assert whole.usage is not None
        assert final.usage.output_tokens == whole.usage.output_tokens


def test_the_responses_api_async_and_streamed(server: Served, expected: str) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            asked: Any = {"model": MODEL, "input": QUESTION, "temperature": 0, "max_output_tokens": 40}
            whole = await client.responses.create(**asked)
            stream = await client.responses.create(**asked, stream=True)
            deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            return [whole.output_text, "".join(deltas)]

    assert asyncio.run(ask()) == [expected, expected]


def test_the_messages_api_sync_and_streamed(server: Served, expected: str) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="none") as client:
        asked: Any = {
            "model": MODEL, "messages": USER, "max_tokens": 40, "extra_body": {"temperature": 0}
        }  # fmt: skip
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            deltas = "".join(stream.text_stream)
            final = stream.get_final_message()
        assert [block.to_dict() for block in whole.content] == [{"type": "text", "text": expected}]
        assert deltas == expected
        assert final.usage.output_tokens == whole.usage.output_tokens
        count = client.messages.count_tokens(model=MODEL, messages=USER).input_tokens
        assert whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0) == count


def test_the_messages_api_async_and_streamed(server: Served, expected: str) -> None:
    async def ask() -> list[str]:
        async with anthropic.AsyncAnthropic(base_url=server.url, api_key="none") as client:
            asked: Any = {
                "model": MODEL, "messages": USER, "max_tokens": 40, "extra_body": {"temperature": 0}
            }  # fmt: skip
            whole = await client.messages.create(**asked)
            async with client.messages.stream(**asked) as stream:
                deltas = [text async for text in stream.text_stream]
            return [block.text for block in whole.content if block.type == "text"] + ["".join(deltas)]

    assert asyncio.run(ask()) == [expected, expected]


def test_tokenizing_there_and_back(server: Served) -> None:
    tokens = httpx.post(f"{server.url}/tokenize", json={"prompt": QUESTION}).json()["tokens"]
    text = httpx.post(f"{server.url}/detokenize", json={"tokens": tokens}).json()["prompt"]
    assert text == QUESTION
