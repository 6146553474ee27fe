"""Structured output by the demo model, asked for with OpenAI's own client: every answer is what was asked."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from many_schemas import ENDLESS, SCHEMAS
from pydantic import BaseModel, Field
from served import MODEL, Served, serve

MAX_TOKENS = 250
AT_ONCE = 120


class Item(BaseModel):
    name: str = Field(max_length=8)
    count: int = Field(ge=1, le=20)


class Basket(BaseModel):
    items: list[Item] = Field(min_length=1, max_length=3)
    is_paid: bool


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve("--max-num-seqs", "128") as served:
        yield served
        stats = served.stats()
        assert (stats.num_running, stats.num_waiting) == (0, 0)


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


async def ask(client: openai.AsyncOpenAI, number: int, name: str, streamed: bool) -> tuple[str, str | None]:
    """The answer to one schema and why it ended."""
    request: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Write JSON: {name}"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMAS[name]}},
        "temperature": 0.0 if number % 2 else 0.9,
        "seed": number,
        "max_tokens": MAX_TOKENS,
    }
    if not streamed:
        choice = (await client.chat.completions.create(**request)).choices[0]
        return choice.message.content or "", choice.finish_reason
    text, reason = "", None
    async for chunk in await client.chat.completions.create(**request, stream=True):
        text += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason
    return text, reason


async def ask_all(url: str) -> dict[str, list[tuple[str, str | None]]]:
    answers: dict[str, list[tuple[str, str | None]]] = {name: [] for name in SCHEMAS}
    turns = asyncio.Semaphore(AT_ONCE)

    async def both(client: openai.AsyncOpenAI, number: int, name: str) -> None:
        for streamed in (False, True):
            async with turns:
                answers[name].append(await ask(client, number, name, streamed))

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=250) as client:
        await asyncio.gather(*[both(client, number, name) for number, name in enumerate(SCHEMAS)])
    return answers


def test_two_hundred_schemas_are_kept_to_streamed_and_not(served: Served) -> None:
    answers = asyncio.run(ask_all(served.url))
    assert len(answers) >= 200
    for name, ((whole, reason), (streamed, streamed_reason)) in answers.items():
        assert (streamed, streamed_reason) == (whole, reason), name
        if reason == "length" and name in ENDLESS:
            continue
        assert reason == "stop", (name, whole)
        jsonschema.validate(json.loads(whole), SCHEMAS[name], jsonschema.Draft202012Validator)
    # Not the shortest texts only, nor one text for all: the model chose them.
    assert len({whole for (whole, _), _ in answers.values()}) > len(answers) / 2


@pytest.mark.parametrize(
    ("wish", "pattern"),
    [
        ({"regex": r"[A-Z][a-z]{2,8} is \d{1,3} years old\."}, r"[A-Z][a-z]{2,8} is \d{1,3} years old\."),
        ({"choice": ["red", "green", "light blue"]}, "red|green|light blue"),
        ({"grammar": 'start: sum\nsum: N ("+" N){1,4}\nN: /[0-9]{1,3}/'}, r"\d{1,3}(\+\d{1,3}){1,4}"),
        ({"grammar": 'root ::= "<" [a-z]{1,5} ">"'}, "<[a-z]{1,5}>"),
    ],
    ids=["regex", "choice", "lark", "ebnf"],
)
def test_expressions_choices_and_grammars_are_kept_to(
    client: openai.OpenAI, wish: dict[str, Any], pattern: str
) -> None:
    for seed in range(4):
        request: dict[str, Any] = {
            "model": MODEL, "prompt": "Say it:", "max_tokens": 60, "temperature": 1.0, "seed": seed,
            "extra_body": {"structured_outputs": wish},
        }  # fmt: skip
        choice = client.completions.create(**request).choices[0]
        assert re.fullmatch(pattern, choice.text), choice.text
        assert choice.finish_reason == "stop"
        text = "".join(chunk.choices[0].text for chunk in client.completions.create(**request, stream=True))
        assert text == choice.text


def test_any_object_and_an_answer_cut_by_its_length(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "hello"}],
        response_format={"type": "json_object"},
        max_tokens=3,
        temperature=0,
    )
    assert chat.choices[0].finish_reason == "length"
    assert (chat.choices[0].message.content or "").startswith("{")
    assert chat.usage is not None
    assert chat.usage.completion_tokens == 3


def test_pydantic_models_come_back_parsed(client: openai.OpenAI) -> None:
    chat = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "a basket"}],
        response_format=Basket,
        max_tokens=300,
    )
    basket = chat.choices[0].message.parsed
    assert basket is not None
    assert 1 <= len(basket.items) <= 3


def test_a_mistake_is_the_clients_own_exception_and_the_server_goes_on(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hello"}],
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}},
            },
        )
    assert bad.value.code == "unsupported_parameter"
    assert bad.value.param == "response_format.json_schema.schema.uniqueItems"
    assert client.completions.create(model=MODEL, prompt="one", max_tokens=2).choices[0].finish_reason
