"""`gllm bench serve`: load on a running server, and what its clients saw.

The CPU time of this process is told, too: near one core's worth, it is the client that was measured.
Knows options and results; not how requests are sent (load.py).
"""

import argparse
import asyncio
import math
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import uvloop

from gllm.bench import report
from gllm.bench.api import Api, Chat, Completions
from gllm.bench.datasets import open_tokenizer
from gllm.bench.errors import BenchError
from gllm.bench.load import measure
from gllm.bench.metrics import METRICS, Goodput, summarize
from gllm.bench.workload import Workload, arrivals, workload
from gllm.chat import ChatError, connect, first_model
from gllm.frontend.tokenizer import Tokenizer

BUSY_SHARE = 0.7  # of a core, from which on the client's own delays may show in what it measures


def run(given: argparse.Namespace) -> int:
    """Run the command; 1 where no request succeeded. Raises `BenchError` for what cannot be asked."""
    metrics, percentiles, goodput, metadata = _asked(given)
    url = (given.base_url or f"http://{given.host}:{given.port}").rstrip("/").removesuffix("/v1")
    try:
        with connect(url) as client:
            model = given.model or first_model(client)
    except ChatError as error:
        return _failed(str(error))
    tokenizer = open_tokenizer(given.tokenizer or model)
    work = workload(given, tokenizer, given.seed)
    times = arrivals(given, work, given.seed)
    api = _api(given, model, work, tokenizer)

    began = datetime.now()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcomes, duration, cpu_s = runner.run(measure(given, url, api, work.samples, times))
    summary = summarize(outcomes, duration, percentiles, goodput)
    print(*report.lines(summary, metrics, given.max_concurrency, given.request_rate), sep="\n", flush=True)
    print(f"client: {cpu_s:.2f} s of CPU time, {cpu_s / duration:.0%} of a core", file=sys.stderr)
    if summary.completed and cpu_s > BUSY_SHARE * duration:
        print("client: too busy for these times to be the server's alone: lower the load", file=sys.stderr)
    if given.save_result or given.append_result:
        result = {
            "date": began.strftime("%Y%m%d-%H%M%S"),
            "endpoint_type": given.backend,
            "backend": given.backend,
            "label": given.label,
            "model_id": model,
            "tokenizer_id": given.tokenizer or model,
            "num_prompts": len(work.samples),
            **metadata,
            "request_rate": given.request_rate if given.request_rate < math.inf else "inf",
            "burstiness": given.burstiness,
            "max_concurrency": given.max_concurrency,
            **report.figures(summary, metrics),
            "client_cpu_s": cpu_s,
            **(report.details(outcomes) if given.save_detailed else {}),
        }
        report.save(result, _file(given, model, result["date"]), given.append_result)
    reasons = Counter(outcome.error for outcome in outcomes if outcome.error)
    for reason, count in reasons.most_common(3):
        print(f"{count} requests failed: {reason}", file=sys.stderr)
    return 0 if summary.completed else _failed("no request succeeded")


def _failed(sentence: str) -> int:
    print(f"gllm bench serve: {sentence}", file=sys.stderr)
    return 1


def _asked(given: argparse.Namespace) -> tuple[list[str], list[float], Goodput | None, dict[str, str]]:
    """Metrics, percentiles, goodput and metadata: checked before anything takes time."""
    metrics = given.percentile_metrics.split(",")
    if wrong := [name for name in metrics if name not in METRICS]:
        raise BenchError(f"--percentile-metrics {wrong[0]}: expected some of {','.join(METRICS)}")
    try:
        percentiles = [float(word) for word in given.metric_percentiles.split(",")]
    except ValueError:
        percentiles = [math.nan]
    if not all(0 <= point <= 100 for point in percentiles):
        raise BenchError(
            f"--metric-percentiles {given.metric_percentiles}: expected numbers of 0 to 100, such as 50,99"
        )
    if given.max_concurrency is not None and given.max_concurrency < 1:
        raise BenchError(f"--max-concurrency is {given.max_concurrency}, expected a number above 0")
    pairs = [word.partition("=") for word in given.metadata or ()]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise BenchError(f"--metadata {wrong[0]}: expected KEY=VALUE")
    goodput = Goodput.parse(given.goodput) if given.goodput else None
    return metrics, percentiles, goodput, {name: value for name, _, value in pairs}


def _api(given: argparse.Namespace, model: str, work: Workload, tokenizer: Tokenizer) -> Api:
    """How requests are written. Made-up prompts ignore the end of text, where the server's API can."""
    can_ignore = given.backend in ("gllm", "vllm")
    ignore_eos = given.ignore_eos if given.ignore_eos is not None else work.is_made_up and can_ignore
    options: dict[str, Any] = {"temperature": given.temperature}
    asked = {"top_p": given.top_p, "top_k": given.top_k, "ignore_eos": ignore_eos or None}
    options |= {name: value for name, value in asked.items() if value is not None}
    if given.backend == "openai-chat":
        return Chat(model, options, tokenizer.decode)
    return Completions(model, options)


def _file(given: argparse.Namespace, model: str, date: str) -> Path:
    """Where the result goes: as named, or by what was run, as in vLLM."""
    rate = f"{given.request_rate:g}qps"
    limit = f"-concurrency{given.max_concurrency}" if given.max_concurrency else ""
    made_up = f"{given.label or given.backend}-{rate}{limit}-{Path(model).name}-{date}.json"
    return Path(given.result_dir or ".", given.result_filename or made_up)
