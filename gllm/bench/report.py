"""A run's figures as vLLM's users know them: the printed block and the JSON beside it.

The lines and keys are a contract with scripts that read them: add, never rename. Knows nothing of
how anything was measured.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gllm.bench.metrics import Outcome, Summary

WIDTH = 50
SECTIONS = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}


def lines(
    summary: Summary, metrics: Sequence[str], max_concurrency: int | None, request_rate: float
) -> Iterator[str]:
    """The block of results, line by line. metrics: the sections that are shown."""
    yield f"{' Serving Benchmark Result ':=^{WIDTH}}"
    yield _line("Successful requests:", summary.completed)
    yield _line("Failed requests:", summary.failed)
    if max_concurrency is not None:
        yield _line("Maximum request concurrency:", max_concurrency)
    if request_rate != float("inf"):
        yield _line("Request rate configured (RPS):", request_rate)
    yield _line("Benchmark duration (s):", summary.duration)
    yield _line("Total input tokens:", summary.total_input_tokens)
    yield _line("Total generated tokens:", summary.total_output_tokens)
    yield _line("Request throughput (req/s):", summary.request_throughput)
    if summary.request_goodput is not None:
        yield _line("Request goodput (req/s):", summary.request_goodput)
    yield _line("Output token throughput (tok/s):", summary.output_throughput)
    yield _line("Peak output token throughput (tok/s):", summary.peak_output_throughput)
    yield _line("Peak concurrent requests:", float(summary.peak_concurrency))
    yield _line("Total token throughput (tok/s):", summary.total_token_throughput)
    yield _line("Avg latency (ms):", summary.avg_latency_ms)
    for metric, title in SECTIONS.items():
        if metric in metrics:
            found, name = summary.distributions[metric], metric.upper()
            yield f"{title:-^{WIDTH}}"
            yield _line(f"Mean {name} (ms):", found.mean)
            yield _line(f"Median {name} (ms):", found.median)
            for point, value in found.percentiles.items():
                yield _line(f"P{point:g} {name} (ms):", value)
    yield "=" * WIDTH


def _line(label: str, value: float) -> str:
    return f"{label:<40} {value:<10.2f}" if isinstance(value, float) else f"{label:<40} {value:<10}"


def figures(summary: Summary, metrics: Sequence[str]) -> dict[str, Any]:
    """The run as JSON, without what belongs to single requests."""
    found: dict[str, Any] = {
        "duration": summary.duration,
        "completed": summary.completed,
        "failed": summary.failed,
        "total_input_tokens": summary.total_input_tokens,
        "total_output_tokens": summary.total_output_tokens,
        "request_throughput": summary.request_throughput,
        "request_goodput": summary.request_goodput,
        "output_throughput": summary.output_throughput,
        "total_token_throughput": summary.total_token_throughput,
        "max_output_tokens_per_s": summary.peak_output_throughput,
        "max_concurrent_requests": summary.peak_concurrency,
        "avg_latency_ms": summary.avg_latency_ms,
    }
    for metric in SECTIONS:
        if metric in metrics:
            one = summary.distributions[metric]
            found |= {f"mean_{metric}_ms": one.mean, f"median_{metric}_ms": one.median}
            found[f"std_{metric}_ms"] = one.std
            found |= {f"p{point:g}_{metric}_ms": value for point, value in one.percentiles.items()}
    return found


def details(outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """Every request by itself, in seconds, in the order of sending; failed ones hold zeros."""
    return {
        "input_lens": [outcome.num_prompt_tokens for outcome in outcomes],
        "output_lens": [outcome.num_output_tokens for outcome in outcomes],
        "ttfts": [outcome.ttft for outcome in outcomes],
        "itls": [outcome.itls for outcome in outcomes],
        "latencies": [outcome.latency for outcome in outcomes],
        "start_times": [outcome.sent for outcome in outcomes],
        "generated_texts": [outcome.text for outcome in outcomes],
        "errors": [outcome.error for outcome in outcomes],
    }


def save(result: dict[str, Any], path: Path, append: bool) -> None:
    """Write one JSON object; with `append`, as one more line of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a" if append else "w", encoding="utf-8") as file:
        if append and os.fstat(file.fileno()).st_size:
            file.write("\n")
        json.dump(result, file)
