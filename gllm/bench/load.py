"""One load: warm up, then send each request when it is due.

Everything that can be made before the clock starts is made then, bodies included. Knows nothing of
data sets, or of what the outcomes mean.
"""

import argparse
import asyncio
import os
import resource
import time
from collections.abc import Sequence
from typing import Any

import httpx
from tqdm import tqdm

from gllm.bench.api import Api
from gllm.bench.client import Client
from gllm.bench.datasets import Sample
from gllm.bench.errors import BenchError
from gllm.bench.metrics import Outcome


async def measure(
    given: argparse.Namespace, url: str, api: Api, samples: Sequence[Sample], times: Sequence[float]
) -> tuple[list[Outcome], float, float]:
    """Outcomes in the order of sending, the seconds of the whole, and of CPU time."""
    _allow_many_connections()
    key = os.environ.get("OPENAI_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    bodies = [api.body(sample) for sample in samples]
    warm = [samples[index % len(samples)].otherwise() for index in range(given.num_warmups)]
    async with Client(url, given.endpoint or api.ENDPOINT, headers) as client:
        warmed = [Outcome(sample.num_prompt_tokens) for sample in warm]
        async with asyncio.TaskGroup() as group:
            for sample, outcome in zip(warm, warmed, strict=True):
                group.create_task(client.generate(api, api.body(sample), outcome))
        if given.profile:
            await _profile(url, "start", headers)
        outcomes = [Outcome(sample.num_prompt_tokens) for sample in samples]
        with tqdm(total=len(outcomes), disable=given.disable_tqdm, dynamic_ncols=True) as bar:
            cpu_began = time.process_time()
            client.began = time.perf_counter()
            await _drive(client, api, bodies, outcomes, times, given.max_concurrency, bar)
            duration, cpu_s = client.now(), time.process_time() - cpu_began
        if given.profile:
            await _profile(url, "stop", headers)
    return outcomes, duration, cpu_s


async def _drive(
    client: Client,
    api: Api,
    bodies: Sequence[bytes],
    outcomes: Sequence[Outcome],
    times: Sequence[float],
    max_concurrency: int | None,
    bar: "tqdm[Any]",
) -> None:
    """Send each request when it is due, or when one of `max_concurrency` places is free."""
    places = asyncio.Semaphore(max_concurrency or len(bodies))

    async def send(body: bytes, outcome: Outcome) -> None:
        async with places:
            await client.generate(api, body, outcome)
        bar.update()

    async with asyncio.TaskGroup() as group:
        for body, outcome, due in zip(bodies, outcomes, times, strict=True):
            if (wait := due - client.now()) > 0:
                await asyncio.sleep(wait)
            group.create_task(send(body, outcome))


async def _profile(url: str, verb: str, headers: dict[str, str]) -> None:
    """Ask the server to profile itself, as vLLM's does."""
    async with httpx.AsyncClient(headers=headers) as http:
        answer = await http.post(f"{url}/{verb}_profile")
    if answer.is_error:
        raise BenchError(f"--profile: {url} has no /{verb}_profile ({answer.status_code}): leave it out")


def _allow_many_connections() -> None:
    """As many open files as the system lets us have: each request under way needs one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
