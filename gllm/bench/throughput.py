"""`gllm bench throughput`: all requests at once to an engine in this program, how fast they were done, and
where the time went.

Knows the engines by name only (engines.py).
"""

import argparse
import json
import time
from datetime import datetime
from pathlib import Path

from gllm.bench.breakdown import breakdown
from gllm.bench.datasets import open_tokenizer
from gllm.bench.engines import engine
from gllm.bench.workload import workload
from gllm.config import DeploymentConfig


def run(given: argparse.Namespace, config: DeploymentConfig) -> int:
    """Run the command; returns the exit code. Raises `BenchError`."""
    tokenizer = open_tokenizer(config.model.path)
    samples = workload(given, tokenizer, config.model.seed).samples
    with engine(given.backend, config, given.hf_max_batch_size) as running:
        began = time.monotonic_ns()
        num_prompt_tokens, num_output_tokens = running.generate(samples, not given.disable_tqdm)
        ended = time.monotonic_ns()
    seconds = (ended - began) / 1e9
    where = breakdown(running.timed(), began, ended)
    total = num_prompt_tokens + num_output_tokens
    print(
        f"Throughput: {len(samples) / seconds:.2f} requests/s, {total / seconds:.2f} total tokens/s, "
        f"{num_output_tokens / seconds:.2f} output tokens/s"
    )
    print(f"Total num prompt tokens:  {num_prompt_tokens}")
    print(f"Total num output tokens:  {num_output_tokens}")
    if where is not None:
        print(*where.lines(), sep="\n")
    if given.output_json:
        result = {
            "elapsed_time": seconds,
            "num_requests": len(samples),
            "total_num_tokens": total,
            "requests_per_second": len(samples) / seconds,
            "tokens_per_second": total / seconds,
            "output_tokens_per_second": num_output_tokens / seconds,
            "backend": given.backend,
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "model": str(config.model.path),
            "micro_batches": config.scheduler.micro_batches,
            "latency_breakdown": None if where is None else where.to_json(),
        }
        Path(given.output_json).write_text(json.dumps(result, indent=4) + "\n", encoding="utf-8")
    return 0
