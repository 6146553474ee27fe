"""`gllm bench latency`: how long one batch takes from its start to its last token.

Every round has new prompts, so that no cache of prefixes shortens it. Knows the engine by name only.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from tqdm import trange

from gllm.bench.datasets import RandomTokens, open_tokenizer, uniform
from gllm.bench.engines import engine
from gllm.bench.errors import BenchError
from gllm.config import DeploymentConfig

PERCENTAGES = (10, 25, 50, 75, 90, 99)


def run(given: argparse.Namespace, config: DeploymentConfig) -> int:
    """Run the command; returns the exit code. Raises `BenchError`."""
    for name in ("batch_size", "input_len", "output_len", "num_iters"):
        if getattr(given, name) < 1:
            raise BenchError(f"--{name.replace('_', '-')} is {getattr(given, name)}, expected at least 1")
    tokens = RandomTokens(open_tokenizer(config.model.path), config.model.seed)
    latencies = []
    with engine(given.backend, config, given.batch_size) as running:

        def take_one() -> float:
            samples = uniform(given.batch_size, tokens, num_input_tokens=given.input_len,
                              num_output_tokens=given.output_len)  # fmt: skip
            began = time.perf_counter()
            running.generate(samples, show_progress=False)
            return time.perf_counter() - began

        for _ in trange(given.num_iters_warmup, desc="Warming up", disable=given.disable_tqdm):
            take_one()
        for _ in trange(given.num_iters, desc="Measuring", disable=given.disable_tqdm):
            latencies.append(take_one())
    average = float(np.mean(latencies))
    points = {point: float(np.percentile(latencies, point)) for point in PERCENTAGES}
    print(f"Avg latency: {average} seconds")
    for point, seconds in points.items():
        print(f"{point}% percentile latency: {seconds} seconds")
    if given.output_json:
        result = {"avg_latency": average, "latencies": latencies, "percentiles": points}
        Path(given.output_json).write_text(json.dumps(result, indent=4) + "\n", encoding="utf-8")
    return 0
