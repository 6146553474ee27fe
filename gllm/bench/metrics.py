"""What latencies and throughputs mean, in vLLM's definitions; pure functions of measured times.

TTFT: from sending to the first streamed output. ITL: every gap between two outputs of a request,
pooled. E2EL: from sending to the last output. TPOT: (E2EL - TTFT) / (output tokens - 1) of each
request of more than one token. An output is an event of the stream, which may carry several tokens;
tokens are counted by the server's usage. Knows nothing of HTTP or of how results are printed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

import numpy as np

from gllm.bench.errors import BenchError

METRICS = ("ttft", "tpot", "itl", "e2el")
GOODPUT_METRICS = ("ttft", "tpot", "e2el")


@dataclass(slots=True)
class Outcome:
    """What became of one request.

    sent: seconds after the start of the load. outputs: when each output arrived, on the same clock.
    error: one sentence; empty for a request that succeeded.
    """

    num_prompt_tokens: int
    sent: float = 0.0
    outputs: list[float] = field(default_factory=list)
    num_output_tokens: int = 0
    text: str = ""
    error: str = ""

    @property
    def ttft(self) -> float:
        return self.outputs[0] - self.sent if self.outputs else 0.0

    @property
    def latency(self) -> float:
        return self.outputs[-1] - self.sent if self.outputs else 0.0

    @property
    def itls(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.outputs)]

    @property
    def tpot(self) -> float | None:
        """None for a request of one token, which has no token after the first."""
        if self.num_output_tokens < 2:
            return None
        return (self.latency - self.ttft) / (self.num_output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Goodput:
    """The most milliseconds that a good request may take, by metric; it must keep all of them."""

    limits_ms: Mapping[str, float]

    @classmethod
    def parse(cls, words: Sequence[str]) -> Self:
        """Of `ttft:200 tpot:50 e2el:3000`, any of them."""
        limits = {}
        for word in words:
            name, _, value = word.partition(":")
            try:
                limits[name] = float(value)
            except ValueError:
                limits[name] = math.nan
            if name not in GOODPUT_METRICS or not limits[name] >= 0:
                raise BenchError(f"--goodput {word}: expected METRIC:MS with ttft, tpot or e2el")
        return cls(limits)

    def is_met(self, outcome: Outcome) -> bool:
        took = {"ttft": outcome.ttft, "tpot": outcome.tpot or 0.0, "e2el": outcome.latency}
        return all(took[name] * 1000 <= limit for name, limit in self.limits_ms.items())


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of one metric, in milliseconds; all zero where nothing was measured."""

    mean: float
    median: float
    std: float
    percentiles: dict[float, float]

    @classmethod
    def of(cls, seconds: Sequence[float], percentiles: Sequence[float]) -> Self:
        values = np.array(seconds or [0.0]) * 1000
        points = {point: float(np.percentile(values, point)) for point in percentiles}
        return cls(float(values.mean()), float(np.median(values)), float(values.std()), points)


@dataclass(frozen=True, slots=True)
class Summary:
    """A whole run. peak_output_throughput: most tokens in one second; peak_concurrency: most requests."""

    duration: float
    completed: int
    failed: int
    total_input_tokens: int
    total_output_tokens: int
    num_good: int | None
    peak_output_throughput: float
    peak_concurrency: int
    avg_latency_ms: float
    distributions: dict[str, Distribution]

    @property
    def request_throughput(self) -> float:
        return self.completed / self.duration

    @property
    def request_goodput(self) -> float | None:
        return None if self.num_good is None else self.num_good / self.duration

    @property
    def output_throughput(self) -> float:
        return self.total_output_tokens / self.duration

    @property
    def total_token_throughput(self) -> float:
        return (self.total_input_tokens + self.total_output_tokens) / self.duration


def summarize(
    outcomes: Sequence[Outcome], duration: float, percentiles: Sequence[float], goodput: Goodput | None = None
) -> Summary:
    """The figures of a run of `duration` seconds; only requests that succeeded count."""
    done = [outcome for outcome in outcomes if not outcome.error]
    measured = {
        "ttft": [outcome.ttft for outcome in done],
        "tpot": [tpot for outcome in done if (tpot := outcome.tpot) is not None],
        "itl": [itl for outcome in done for itl in outcome.itls],
        "e2el": [outcome.latency for outcome in done],
    }
    distributions = {name: Distribution.of(values, percentiles) for name, values in measured.items()}
    tokens, concurrent = _peaks(done)
    return Summary(
        duration=duration,
        completed=len(done),
        failed=len(outcomes) - len(done),
        total_input_tokens=sum(outcome.num_prompt_tokens for outcome in done),
        total_output_tokens=sum(outcome.num_output_tokens for outcome in done),
        num_good=None if goodput is None else sum(map(goodput.is_met, done)),
        peak_output_throughput=tokens,
        peak_concurrency=concurrent,
        avg_latency_ms=distributions["e2el"].mean,
        distributions=distributions,
    )


def _peaks(done: Sequence[Outcome]) -> tuple[float, int]:
    """The most output tokens and the most requests under way in any second since the first was sent.

    A request's tokens are spread evenly over its outputs.
    """
    if not done:
        return 0.0, 0
    began = min(outcome.sent for outcome in done)
    num_seconds = int(max(outcome.outputs[-1] for outcome in done) - began) + 1
    tokens, concurrent = np.zeros(num_seconds), np.zeros(num_seconds, np.int64)
    for outcome in done:
        seconds = (np.array(outcome.outputs) - began).astype(np.int64)
        np.add.at(tokens, seconds, outcome.num_output_tokens / len(seconds))
        concurrent[int(outcome.sent - began) : seconds[-1] + 1] += 1
    return float(tokens.max()), int(concurrent.max())
