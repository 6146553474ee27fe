"""A recording of a live server under load replays to the same plans, byte for byte."""

import asyncio
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from served import MODEL, ROOT, serve

NUM_REQUESTS = 520
NUM_AT_ONCE = 48


def bodies() -> list[dict[str, Any]]:
    """Short prompts with few beginnings; some answers that outgrow a small cache."""
    rng = random.Random(3)
    beginnings = [[rng.randrange(3, 1000) for _ in range(40)] for _ in range(4)]
    return [
        {
            "model": MODEL,
            "prompt": rng.choice(beginnings)[: rng.randrange(41)]
            + [rng.randrange(3, 1000)] * rng.randrange(1, 9),
            "max_tokens": 120 if number % 8 == 0 else rng.randrange(1, 12),
            "ignore_eos": True,
            "priority": -rng.randrange(3),
            "temperature": 0.0,
            "stream": True,
        }
        for number in range(NUM_REQUESTS)
    ]


async def all_of_them(url: str) -> int:
    """Ask everything, a bounded number at once; every fifth client hangs up early. How many did."""
    turns = asyncio.Semaphore(NUM_AT_ONCE)

    async def ask(client: httpx.AsyncClient, number: int, body: dict[str, Any]) -> int:
        async with turns, client.stream("POST", "/v1/completions", json=body) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if number % 5 == 0 and line.startswith("data: {"):
                    return 1
        return 0

    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        return sum(await asyncio.gather(*(ask(client, number, body) for number, body in enumerate(bodies()))))


def replay(*arguments: str) -> str:
    command = [sys.executable, "-m", "gllm", "replay", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_live_run_of_500_requests_replays_to_the_same_plans(tmp_path: Path) -> None:
    recording = tmp_path / "run.glr"
    flags = ["--record", str(recording), "--max-total-tokens", "2048", "--max-num-seqs", "8"]
    flags += ["--scheduling-policy", "priority"]  # preempts where a request outranks a running one
    with serve(*flags) as served:
        num_cancelled = asyncio.run(all_of_them(served.url))
        stats = served.stats()
        assert served.stop() == 0
    assert num_cancelled > 50
    assert stats.num_preemptions > 0
    assert stats.num_prefix_hit_tokens > 0
    assert recording.stat().st_mode & 0o777 == 0o600
    said = replay(str(recording))
    assert "all plans are equal" in said
    assert f"{stats.num_steps} plans" in said.replace(",", "")
    half = replay(str(recording), "--until", str(stats.num_steps // 2))
    assert "running" in half
    assert "preemptions" in replay(str(recording), "--policy", "fcfs")
