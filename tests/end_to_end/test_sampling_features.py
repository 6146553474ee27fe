"""Every sampling parameter against the served demo model, asked for with OpenAI's own clients."""

import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from served import MODEL, ROOT, Served, serve

from gllm.frontend.tokenizer import Tokenizer

USER: list[Any] = [{"role": "user", "content": "Count from one to ten."}]
STORY = "One, two, three,"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve("--max-num-seqs", "32") as served:
        yield served
        stats = served.stats()
        assert (stats.num_running, stats.num_waiting) == (0, 0)
        assert stats.num_free_pages == stats.num_pages


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(ROOT / MODEL)


def complete(client: openai.OpenAI, prompt: Any = STORY, **fields: Any) -> Any:
    """A completion; fields that OpenAI does not know go the way that its client has for them."""
    known = {"n", "best_of", "logprobs", "echo", "seed", "stop", "logit_bias", "temperature", "max_tokens"}
    known |= {"presence_penalty", "frequency_penalty"}
    own = {name: value for name, value in fields.items() if name in known}
    extra = {"ignore_eos": True} | {name: value for name, value in fields.items() if name not in known}
    return client.completions.create(
        model=MODEL, prompt=prompt, **({"temperature": 0, "max_tokens": 24} | own), extra_body=extra
    )


def text(client: openai.OpenAI, **fields: Any) -> str:
    return str(complete(client, **fields).choices[0].text)


def ids(client: openai.OpenAI, **fields: Any) -> list[int]:
    return list(complete(client, return_token_ids=True, **fields).choices[0].token_ids)


def test_a_seed_gives_the_same_text_alone_and_under_load(served: Served) -> None:
    async def ask(client: openai.AsyncOpenAI, seed: int, streamed: bool) -> list[str]:
        request = {
            "model": MODEL,
            "prompt": STORY,
            "max_tokens": 40,
            "temperature": 1.0,
            "seed": seed,
            "n": 4,
        }
        if not streamed:
            return [choice.text for choice in (await client.completions.create(**request)).choices]
        texts = [""] * 4
        async for chunk in await client.completions.create(**request, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].text
        return texts

    async def both() -> tuple[list[list[str]], list[list[str]]]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
            alone = [await ask(client, seed, seed % 2 == 0) for seed in range(8)]
            together = await asyncio.gather(*(ask(client, seed % 8, seed >= 8) for seed in range(16)))
            return alone, list(together)

    alone, together = asyncio.run(both())
    assert together == alone * 2
    assert all(len(set(texts)) == 4 for texts in alone)


def test_n_outputs_are_computed_with_one_prompt(served: Served, client: openai.OpenAI) -> None:
    prompt = list(range(300, 500))
    before = served.stats()
    answer = complete(client, prompt, n=4, temperature=1.0, seed=3, max_tokens=8, cache_salt="one prompt")
    after = served.stats()
    assert len({choice.text for choice in answer.choices}) == 4
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (200, 32)
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    # Of the three others only what lies behind the last full page is computed again.
    assert after.num_prompt_tokens - before.num_prompt_tokens <= 200 + 3 * 16


@pytest.mark.parametrize("streamed", [False, True])
def test_several_prompts_with_several_outputs_keep_their_places(
    client: openai.OpenAI, streamed: bool
) -> None:
    request: dict[str, Any] = {"model": MODEL, "prompt": ["One, two,", STORY], "n": 3, "max_tokens": 12}
    request |= {"temperature": 0.9, "seed": 5, "stop": ["e"]}
    expected = []
    for prompt in request["prompt"]:
        expected += [c.text for c in client.completions.create(**request | {"prompt": prompt}).choices]
    if not streamed:
        assert [choice.text for choice in client.completions.create(**request).choices] == expected
        return
    texts, reasons = [""] * 6, [None] * 6
    for chunk in client.completions.create(**request, stream=True):
        choice = chunk.choices[0]
        texts[choice.index] += choice.text
        reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == expected
    assert set(reasons) <= {"stop", "length"}


def test_a_chat_streams_several_choices(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {
        "model": MODEL,
        "messages": USER,
        "n": 3,
        "max_tokens": 20,
        "seed": 1,
        "temperature": 2,
    }
    whole = client.chat.completions.create(**request)
    texts = [""] * 3
    for chunk in client.chat.completions.create(**request, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert len(set(texts)) > 1


def test_log_probabilities_of_a_chat_are_a_distribution(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": MODEL, "messages": USER, "max_tokens": 15, "temperature": 0}
    request |= {"logprobs": True, "top_logprobs": 5}
    choice = client.chat.completions.create(**request).choices[0]
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content is not None
    told = b"".join(bytes(item.bytes or []) for item in content).decode()
    assert told.startswith(choice.message.content or "?")
    for item in content:
        top = [one.logprob for one in item.top_logprobs]
        assert len(top) == 5
        assert top == sorted(top, reverse=True)
        assert item.logprob == pytest.approx(top[0])  # greedy
        assert 0 < sum(map(math.exp, top)) <= 1.0001
    streamed = []
    for chunk in client.chat.completions.create(**request, stream=True):
        part = chunk.choices[0].logprobs
        streamed += (part.content or []) if part else []
    assert [item.token for item in streamed] == [item.token for item in content]
    assert [item.logprob for item in streamed] == pytest.approx([item.logprob for item in content])
    # The model's own distribution, whatever filters the tokens are drawn by.
    hot = client.chat.completions.create(**request | {"temperature": 2.0, "top_p": 0.1, "seed": 1})
    first = hot.choices[0].logprobs
    assert first is not None
    assert first.content is not None
    assert first.content[0].top_logprobs[0].logprob == pytest.approx(content[0].logprob, abs=1e-4)


def test_log_probabilities_of_a_completion_and_its_echo(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"logprobs": 3, "max_tokens": 6, "skip_special_tokens": False}
    own = complete(client, **fields).choices[0]
    assert "".join(own.logprobs.tokens) == own.text
    assert own.logprobs.text_offset == [
        len("".join(own.logprobs.tokens[:i])) for i in range(len(own.logprobs.tokens))
    ]
    assert all(3 <= len(top) <= 4 for top in own.logprobs.top_logprobs)
    echoed = complete(client, echo=True, **fields).choices[0]
    assert echoed.text == STORY + own.text
    assert "".join(echoed.logprobs.tokens) == echoed.text
    assert echoed.logprobs.token_logprobs[0] is None
    assert echoed.logprobs.token_logprobs[-6:] == pytest.approx(own.logprobs.token_logprobs, abs=1e-4)
    # What the model says of a text as its prompt is what it said when it wrote it.
    again = complete(client, prompt=echoed.text, logprobs=3, max_tokens=0, echo=True)
    assert again.choices[0].text == echoed.text
    assert again.usage.completion_tokens == 0
    told = again.choices[0].logprobs
    if told.tokens == echoed.logprobs.tokens:  # else the text reads as other tokens
        assert told.token_logprobs[1:] == pytest.approx(echoed.logprobs.token_logprobs[1:], abs=1e-3)
    streamed = client.completions.create(
        model=MODEL, prompt=STORY, temperature=0, max_tokens=6, echo=True, logprobs=3, stream=True,
        extra_body={"ignore_eos": True, "skip_special_tokens": False},
    )  # fmt: skip
    parts = [chunk.choices[0] for chunk in streamed]
    assert "".join(part.text for part in parts) == echoed.text
    tokens = [token for part in parts if part.logprobs for token in part.logprobs.tokens or ()]
    assert tokens == echoed.logprobs.tokens


def test_the_prompts_log_probabilities_are_complete_though_its_beginning_is_cached(
    client: openai.OpenAI,
) -> None:
    prompt = [5 + i % 300 for i in range(150)]
    complete(client, prompt)  # into the cache
    choice = complete(client, prompt, prompt_logprobs=2, max_tokens=1).choices[0]
    assert choice.prompt_logprobs[0] is None
    assert len(choice.prompt_logprobs) == 150
    for token, entries in zip(prompt[1:], choice.prompt_logprobs[1:], strict=True):
        assert str(token) in entries
        assert 2 <= len(entries) <= 3
        assert {entry["rank"] for entry in entries.values()} >= {1, 2}
    chat = client.chat.completions.create(
        model=MODEL, messages=USER, max_tokens=1, extra_body={"prompt_logprobs": 0, "return_token_ids": True}
    )
    assert len(chat.prompt_logprobs) == chat.usage.prompt_tokens == len(chat.prompt_token_ids)  # type: ignore


def test_the_best_of_several_are_kept(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"temperature": 1.2, "seed": 9, "max_tokens": 10, "logprobs": 0}
    every = complete(client, n=6, **fields).choices
    means = {c.text: sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs) for c in every}
    best = complete(client, n=2, best_of=6, **fields)
    assert [choice.text for choice in best.choices] == sorted(means, key=means.__getitem__)[::-1][:2]
    assert best.usage.completion_tokens == sum(len(c.logprobs.tokens) for c in every)


def test_biases_bans_and_allowed_tokens_hold(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    usual = ids(client)
    first = usual[0]
    assert first not in ids(client, logit_bias={str(first): -100})
    assert set(ids(client, logit_bias={"77": 100}, max_tokens=8)) == {77}
    allowed = [first, 60, 61, 62]
    assert set(ids(client, allowed_token_ids=allowed)) <= set(allowed)
    words = [tokenizer.decode([token]) for token in usual[:3] if tokenizer.decode([token]).strip()]
    free = text(client, bad_words=words)
    assert free != text(client)
    assert not any(f" {word.strip()} " in free for word in words)


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty", "repetition_penalty"])
def test_a_penalty_makes_repetition_rare(client: openai.OpenAI, penalty: str) -> None:
    among: dict[str, Any] = {"allowed_token_ids": list(range(70, 90)), "max_tokens": 40}
    plain, penalized = ids(client, **among), ids(client, **among, **{penalty: 2})
    assert plain != penalized
    assert len(set(penalized)) > len(set(plain))
    assert max(Counter(penalized).values()) < max(Counter(plain).values())


def test_min_p_one_is_greedy(client: openai.OpenAI) -> None:
    assert text(client, temperature=2.0, min_p=1.0, seed=4) == text(client)


def test_nothing_ends_an_output_before_its_least_length(client: openai.OpenAI) -> None:
    usual = text(client, max_tokens=30)
    stop = next(character for character in usual[2:] if character.isalnum())  # one that comes early
    cut = complete(client, stop=[stop]).choices[0]
    assert cut.finish_reason == "stop"
    assert stop not in cut.text
    shown = complete(client, stop=[stop], include_stop_str_in_output=True).choices[0]
    assert shown.text == cut.text + stop
    longer = complete(client, stop=[stop], min_tokens=10, max_tokens=30)
    assert longer.usage.completion_tokens >= 10
    assert longer.choices[0].text.startswith(cut.text + stop)
    token = ids(client)[1]
    assert complete(client, stop_token_ids=[token]).usage.completion_tokens <= 3
    held = ids(client, stop_token_ids=[token], min_tokens=12)
    assert len(held) >= 12
    assert token not in held[:12]
    with_text = text(client, stop_token_ids=[token], include_stop_str_in_output=True)
    assert with_text.startswith(text(client, stop_token_ids=[token]))
    assert len(with_text) > len(text(client, stop_token_ids=[token]))


def test_prompts_are_cut_and_named_as_asked(served: Served, client: openai.OpenAI) -> None:
    long = list(range(100, 160))
    cut = complete(client, long, truncate_prompt_tokens=7, return_token_ids=True, request_id="my-own.1")
    assert cut.usage.prompt_tokens == 7
    assert cut.choices[0].prompt_token_ids == long[-7:]
    assert cut.id == "cmpl-my-own.1"
    assert cut.choices[0].text == complete(client, long[-7:]).choices[0].text
    chat = client.chat.completions.create(
        model=MODEL, messages=USER, max_tokens=3, extra_body={"truncate_prompt_tokens": 5}
    )
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == 5
    lines = httpx.post(
        f"{served.url}/v1/completions",
        json={
            "model": MODEL, "prompt": STORY, "max_tokens": 6, "stream": True, "temperature": 0,
            "ignore_eos": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        },
    ).text  # fmt: skip
    counts = [int(part.split(",")[0]) for part in lines.split('"completion_tokens":')[1:]]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == 6
