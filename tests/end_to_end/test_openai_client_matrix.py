"""OpenAI's own clients against a running server: every feature, sync and async, streamed and not.

Each row of `client_features` is asked for four times; the four answers must be the same and show it.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
from client_answers import Answer, assert_same, joined, whole
from client_features import FEATURES, SUBJECTS, Feature
from served import MODEL, ROOT, Served, serve

ADMIN = {"authorization": "Bearer sk-admin"}
STREAMED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass
class Answers:
    """Of one feature: the one without it, and those of the async client, streamed and not; or what failed."""

    without: Answer
    by_async_client: list[Any]


def resource(client: Any, api: str) -> Any:
    return client.completions if api == "completion" else client.chat.completions


def ask(client: openai.OpenAI, feature: Feature, without: Answer | None, streamed: bool) -> Answer:
    create, asked = resource(client, feature.api).create, feature.asked(without)
    if streamed:
        return joined(feature.api, list(create(**asked, **STREAMED)))
    return whole(feature.api, create(**asked))


async def ask_async(
    client: openai.AsyncOpenAI, feature: Feature, without: Answer | None, streamed: bool
) -> Answer:
    create, asked = resource(client, feature.api).create, feature.asked(without)
    if streamed:
        return joined(feature.api, [chunk async for chunk in await create(**asked, **STREAMED)])
    return whole(feature.api, await create(**asked))


async def ask_all(url: str) -> dict[str, Answers]:
    """Every feature at the same time; by its title."""

    async def of(client: openai.AsyncOpenAI, feature: Feature) -> Answers:
        await ask_async(client, feature, None, False)  # from now on its prompt is cached
        without = await ask_async(client, feature, None, False)
        asking = [ask_async(client, feature, without, streamed) for streamed in (False, True)]
        return Answers(without, await asyncio.gather(*asking, return_exceptions=True))

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        found = await asyncio.gather(*[of(client, feature) for feature in FEATURES])
    return dict(zip([feature.title for feature in FEATURES], found, strict=True))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    template = tmp_path_factory.mktemp("template") / "terse.jinja"
    shipped = (ROOT / "tests/data/chatml_tools.jinja").read_text()
    template.write_text("{% if terse %}<|im_start|>system\nBe terse.<|im_end|>\n{% endif %}" + shipped)
    flags = ("--chat-template", str(template), "--tool-call-parser", "hermes", "--admin-api-key", "sk-admin")
    with serve(*flags) as served:
        yield served
        stats = served.stats()
        assert (stats.num_running, stats.num_waiting) == (0, 0)
        assert stats.num_free_pages == stats.num_pages


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def answers(served: Served) -> dict[str, Answers]:
    return asyncio.run(ask_all(served.url))


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.title)
def test_a_feature_answers_the_same_in_all_four_ways(
    client: openai.OpenAI, answers: dict[str, Answers], feature: Feature
) -> None:
    found = answers[feature.title]
    got = [ask(client, feature, found.without, streamed=False), found.by_async_client[0]]
    if feature.unstreamed is None:
        got += [ask(client, feature, found.without, streamed=True), found.by_async_client[1]]
    else:
        with pytest.raises(openai.BadRequestError) as refusal:
            ask(client, feature, found.without, streamed=True)
        for error in (refusal.value, found.by_async_client[1]):
            assert isinstance(error, openai.BadRequestError)
            assert error.param == feature.unstreamed
    for answer in got:
        assert isinstance(answer, Answer), answer
        assert_same(answer, got[0])
        feature.fact(answer, found.without)


@pytest.mark.parametrize("api", SUBJECTS)
def test_operators_see_a_request_under_the_name_and_priority_that_its_body_gives(
    served: Served, client: openai.OpenAI, api: str
) -> None:
    fields = {"priority": -3, "request_id": f"seen-{api}", "ignore_eos": True}
    asked = {"model": MODEL, **SUBJECTS[api], "max_tokens": 1000, "extra_body": fields}
    with resource(client, api).create(**asked, stream=True) as stream:
        next(iter(stream))
        listed = httpx.get(f"{served.url}/v1/requests/seen-{api}", headers=ADMIN).json()
        assert [(state["id"], state["priority"]) for state in listed["outputs"]] == [(f"seen-{api}", -3)]
