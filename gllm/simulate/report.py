"""What a run means to its users: latencies, goodput under an SLO, and the table of them.

TTFT is from sending to the first token; TPOT (E2E - TTFT) / (tokens - 1), of requests with more
than one token; ITL every gap between a request's tokens, pooled; goodput counts the requests that
meet every bound. Names and definitions are those of vLLM's serving benchmark. Works on times alone,
so that a live run can be reported in the same way.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gllm.simulate.engine import Run

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PERCENTILES = (90, 99)
METRICS = {
    "ttft": ("Time to First Token", "TTFT"),
    "tpot": ("Time per Output Token (excl. 1st token)", "TPOT"),
    "itl": ("Inter-token Latency", "ITL"),
    "e2el": ("End-to-end Latency", "E2EL"),
}
BOUNDED = ("ttft", "tpot", "e2el")


class SloError(ValueError):
    """The bounds of an SLO are not understood; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds. One entry a request that got tokens, in order of its number; `itl` one a gap."""

    num_tokens: Ints
    ttft: Floats
    tpot: Floats  # 0 where there is one token only: such a request meets every bound
    itl: Floats
    e2el: Floats

    def of(self, metric: str) -> Floats:
        """What the statistics of `metric` are over."""
        values: Floats = getattr(self, metric)
        return values[self.num_tokens > 1] if metric == "tpot" else values


def latencies(sent: Floats, request_ids: npt.ArrayLike, times: npt.ArrayLike) -> Latencies:
    """From the seconds when each request was sent, and the request and the time of every token.

    The tokens of one request are in order of time.
    """
    ids, at = np.asarray(request_ids, np.int64), np.asarray(times, np.float64)
    order = np.argsort(ids, kind="stable")
    ids, at = ids[order], at[order]
    starts = np.flatnonzero(np.diff(ids, prepend=-1))
    ends = np.append(starts[1:], len(ids)) - 1 if len(ids) else starts
    num_tokens = ends - starts + 1
    ttft = at[starts] - sent[ids[starts]]
    e2el = at[ends] - sent[ids[starts]]
    gaps = np.diff(at)[np.diff(ids) == 0]
    return Latencies(num_tokens, ttft, (e2el - ttft) / np.maximum(num_tokens - 1, 1), gaps, e2el)


@dataclass(frozen=True, slots=True)
class Slo:
    """Bounds in milliseconds, by metric."""

    bounds: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, words: Iterable[str]) -> "Slo":
        """From words like `ttft:200` and `tpot:50`; raises `SloError`."""
        bounds: dict[str, float] = {}
        for word in words:
            metric, _, bound = word.partition(":")
            try:
                bounds[metric] = float(bound)
            except ValueError:
                bounds[metric] = -1.0
            if metric not in BOUNDED or not bounds[metric] > 0:
                raise SloError(
                    f"{word!r:.80} is no bound: expected {', '.join(BOUNDED[:-1])} or {BOUNDED[-1]}, "
                    "a colon and milliseconds, such as ttft:200"
                )
        return cls(tuple(bounds.items()))

    def __str__(self) -> str:
        return " ".join(f"{metric}:{bound:g}" for metric, bound in self.bounds)

    def num_met(self, latencies: Latencies) -> int:
        """Requests that meet every bound."""
        met = np.ones(len(latencies.ttft), bool)
        for metric, bound in self.bounds:
            met &= getattr(latencies, metric) * 1e3 <= bound
        return int(np.count_nonzero(met))


def statistics(found: Latencies) -> dict[str, float]:
    """mean_ttft_ms, median_ttft_ms, std_ttft_ms, p90_ttft_ms ... of every metric; NaN where there is none."""
    named = {}
    for metric in METRICS:
        values = found.of(metric) * 1e3
        if not len(values):
            values = np.array([np.nan])
        named[f"mean_{metric}_ms"] = float(values.mean())
        named[f"median_{metric}_ms"] = float(np.median(values))
        named[f"std_{metric}_ms"] = float(values.std())
        for percent in PERCENTILES:
            named[f"p{percent}_{metric}_ms"] = float(np.percentile(values, percent))
    return named


def summary(run: Run, slo: Slo | None = None) -> dict[str, Any]:
    """The figures of a run under the names of the serving benchmark's JSON, and ours."""
    requests, stats = run.trace.requests, run.stats
    ids, times = run.deliveries.columns()
    found = latencies(np.array([request.arrival_s for request in requests]), ids, times)
    duration = max(run.duration_s, 1e-9)
    served = [request for number, request in enumerate(requests) if number not in run.refusals]
    num_prompt_tokens = sum(request.num_prompt_tokens for request in served)
    figures: dict[str, Any] = {
        "trace": run.trace.name,
        "completed": len(found.ttft),
        "failed": len(run.refusals),
        "request_rate": run.trace.rate,
        "duration": run.duration_s,
        "total_input_tokens": num_prompt_tokens,
        "total_output_tokens": len(ids),
        "request_throughput": len(found.ttft) / duration,
        "output_throughput": len(ids) / duration,
        "total_token_throughput": (num_prompt_tokens + len(ids)) / duration,
        "max_concurrent_requests": run.most_at_once,
        **statistics(found),
        "num_preemptions": stats.num_preemptions,
        "prefix_hit_rate": stats.num_prefix_hit_tokens / max(stats.num_prefix_query_tokens, 1),
        "shareable_prefix": run.trace.shareable(),
        "num_steps": stats.num_steps,
        "mean_num_running": run.running_s / duration,
        "mean_num_waiting": run.waiting_s / duration,
        "worker_busy": run.busy_s / duration,
        "wall_s": run.wall_s,
        "speed_up": run.duration_s / max(run.wall_s, 1e-9),
    }
    if slo is not None:
        num_met = slo.num_met(found)
        figures["request_goodput"] = num_met / duration
        figures["slo_attainment"] = num_met / len(requests)
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures in the lines of the serving benchmark, then what only a simulator knows."""
    lines = [f"{' Serving Benchmark Result ':=^50}"]

    def line(name: str, value: Any) -> None:
        lines.append(f"{name:<40} {value:<10}" if isinstance(value, int) else f"{name:<40} {value:<10.2f}")

    line("Successful requests:", figures["completed"])
    line("Failed requests:", figures["failed"])
    line("Request rate configured (RPS):", figures["request_rate"])
    line("Benchmark duration (s):", figures["duration"])
    line("Total input tokens:", figures["total_input_tokens"])
    line("Total generated tokens:", figures["total_output_tokens"])
    line("Request throughput (req/s):", figures["request_throughput"])
    if "request_goodput" in figures:
        line("Request goodput (req/s):", figures["request_goodput"])
    line("Output token throughput (tok/s):", figures["output_throughput"])
    line("Peak concurrent requests:", figures["max_concurrent_requests"])
    line("Total token throughput (tok/s):", figures["total_token_throughput"])
    for metric, (title, name) in METRICS.items():
        lines.append(f"{title:-^50}")
        line(f"Mean {name} (ms):", figures[f"mean_{metric}_ms"])
        line(f"Median {name} (ms):", figures[f"median_{metric}_ms"])
        for percent in PERCENTILES:
            line(f"P{percent} {name} (ms):", figures[f"p{percent}_{metric}_ms"])
    lines.append(f"{'Scheduler and simulation':-^50}")
    if "slo_attainment" in figures:
        line("Requests within the SLO (%):", 100 * figures["slo_attainment"])
    line("Preemptions:", figures["num_preemptions"])
    line("Prefix cache hit rate (%):", 100 * figures["prefix_hit_rate"])
    line("Prefix hit rate possible at most (%):", 100 * figures["shareable_prefix"])
    line("Steps:", figures["num_steps"])
    line("Mean running requests:", figures["mean_num_running"])
    line("Mean waiting requests:", figures["mean_num_waiting"])
    line("Worker busy (%):", 100 * figures["worker_busy"])
    line("Simulation took (s):", figures["wall_s"])
    line("Speed-up over real time:", figures["speed_up"])
    lines.append("=" * 50)
    return "\n".join(lines)
