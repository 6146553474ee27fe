"""OpenAI's own client, unchanged, against our server."""

from collections.abc import Iterator

import openai
import pytest
from http_server import Deployment


@pytest.fixture
def client(server: Deployment) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


USER: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


def test_models_completions_and_chats(server: Deployment, client: openai.OpenAI) -> None:
    server.answers("hello you")
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "gllm"
    completion = client.completions.create(model="tiny", prompt="hello", max_tokens=9, stop=["zzz"], seed=1)
    assert (completion.choices[0].text, completion.choices[0].finish_reason) == ("hello you", "stop")
    chat = client.chat.completions.create(
        model="tiny", messages=USER, temperature=0, top_p=0.9, n=1, user="me"
    )
    assert (chat.choices[0].message.content, chat.choices[0].message.role) == ("hello you", "assistant")
    assert chat.usage is not None
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
    assert chat.system_fingerprint


def test_streams(server: Deployment, client: openai.OpenAI) -> None:
    server.answers("hello 字 you")
    stream = client.chat.completions.create(
        model="tiny", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "hello 字 you"
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 3
    text = "".join(
        chunk.choices[0].text
        for chunk in client.completions.create(model="tiny", prompt="hello", max_tokens=99, stream=True)
    )
    assert text == "hello 字 you"


def test_errors_are_the_clients_own_exceptions(server: Deployment, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        client.completions.create(model="gpt-4", prompt="a")
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny", messages=USER, reasoning_effort="low")
    assert (bad.value.param, bad.value.code) == ("reasoning_effort", "unsupported_parameter")
    server.scheduler.script = lambda _submit: [5]
    stream = client.completions.create(model="tiny", prompt="a", stream=True)
    next(iter(stream))
    stream.close()


async def use_async_client(url: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model="tiny", messages=USER, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


def test_the_async_client_streams(server: Deployment) -> None:
    import asyncio

    server.answers("hello you")
    assert asyncio.run(use_async_client(server.url)) == "hello you"
