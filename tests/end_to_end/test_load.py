"""Many clients at once over HTTP: nothing lost, nothing mixed up, nothing left behind."""

import asyncio
import json
import random
import time
from collections.abc import Iterator

import httpx
import pytest
from served import MODEL, Served, serve

NUM_REQUESTS = 64
SEED = 20


@pytest.fixture(scope="module")
def alone() -> list[httpx.Response]:
    """The answer to each body from a server that serves nobody else."""
    with serve("--max-num-seqs", "1") as served, httpx.Client(base_url=served.url, timeout=120) as client:
        return [client.post("/v1/completions", json=body) for body in bodies()]


@pytest.fixture(scope="module", params=["--pipe-schedule", "--no-pipe-schedule"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with serve(request.param, "--max-num-seqs", "16") as served:
        yield served


def bodies() -> list[dict[str, object]]:
    """Prompts of 1 to 300 tokens, answers of 1 to 120, some drawn at random from a seed."""
    rng = random.Random(SEED)
    return [
        {
            "model": MODEL,
            "prompt": [rng.randrange(3, 1000) for _ in range(rng.choice([1, 7, 40, 300]))],
            "max_tokens": rng.randrange(1, 120),
            "ignore_eos": True,
            "temperature": 0.0 if number % 2 else 0.8,
            "seed": number,
        }
        for number in range(NUM_REQUESTS)
    ]


async def stream(client: httpx.AsyncClient, body: dict[str, object], leave_after: int | None) -> str:
    """The text of a streamed completion; with `leave_after` the client hangs up after so many events."""
    text, events = "", 0
    async with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                assert "error" not in event, event
                text += event["choices"][0]["text"]
                events += 1
                if events == leave_after:
                    return text
    return text


def wait_until_idle(served: Served, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        stats = served.stats()
        if not (stats.num_running or stats.num_waiting or stats.num_plans_in_flight):
            break
        assert time.monotonic() < deadline, stats
        time.sleep(0.05)
    assert stats.num_free_slots == stats.num_slots
    assert stats.num_free_pages == stats.num_pages


def test_64_requests_a_third_of_them_cancelled(served: Served, alone: list[httpx.Response]) -> None:
    async def all_at_once() -> list[str]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=served.url, timeout=120, limits=limits) as client:
            return await asyncio.gather(
                *(
                    stream(client, body, 2 if number % 3 == 0 else None)
                    for number, body in enumerate(bodies())
                )
            )

    texts = asyncio.run(all_at_once())
    wait_until_idle(served)
    for number, (body, response) in enumerate(zip(bodies(), alone, strict=True)):
        answer = response.json()
        assert answer["usage"]["completion_tokens"] == body["max_tokens"]
        if number % 3:
            assert texts[number] == answer["choices"][0]["text"], number
        else:
            assert answer["choices"][0]["text"].startswith(texts[number]), number


def test_a_small_cache_preempts_and_changes_no_text(served: Served) -> None:
    """The same greedy texts from a server whose KV cache holds a fraction of the load."""
    # Short prompts and long answers: all are let in, and then outgrow the cache.
    chosen = [
        {**body, "prompt": [5, 6, 7, number], "max_tokens": 300} for number, body in enumerate(bodies())
    ]
    chosen = [{**body, "temperature": 0.0} for body in chosen[:12]]

    def texts_of(url: str) -> list[str]:
        async def run() -> list[str]:
            async with httpx.AsyncClient(base_url=url, timeout=120) as client:
                return await asyncio.gather(*(stream(client, body, None) for body in chosen))

        return asyncio.run(run())

    usual = texts_of(served.url)
    with serve("--max-total-tokens", "2048") as small:
        tight = texts_of(small.url)
        stats = small.stats()
    assert tight == usual
    assert stats.num_pages == 2048 // 16
    assert stats.num_preemptions > 0
