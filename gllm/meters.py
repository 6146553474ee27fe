"""Counts and distributions that only grow: fed by the process that sees a thing, added up over processes.

`CATALOGUE` says of each what it means. A process sends its own as `Series`; whoever shows them adds
those of all processes. Feeding one costs less than a microsecond and takes no lock: each belongs to one
thread. Knows nothing of sockets or of Prometheus.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gllm.protocol.messages import Series


@dataclass(frozen=True, slots=True)
class Meter:
    """What a name counts. bounds: upper ends of a distribution's buckets, none for a plain count."""

    about: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


def _scale(*decades: float, steps: tuple[float, ...] = (1, 2.5, 5)) -> tuple[float, ...]:
    return tuple(float(f"{step * decade:.4g}") for decade in decades for step in steps)


SHORT_S = _scale(1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # of messages and of the scheduler
TOKEN_S = (*_scale(1e-3, 1e-2, 1e-1, 1), 10.0)  # between tokens
REQUEST_S = (*_scale(1e-2, 1e-1, 1, 10, 100), 1000.0)  # of whole requests and their phases
TOKENS = tuple(float(2**power) for power in range(21))
FEW = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)

CATALOGUE: Mapping[str, Meter] = {
    # What the scheduler sees: one value a step.
    "scheduler_step_seconds": Meter(
        "Time the scheduler takes for one step: plan and send it, commit its result.", bounds=SHORT_S
    ),
    "zmq_hop_seconds": Meter(
        "Time a message is under way between scheduler and worker, by direction.", ("hop",), SHORT_S
    ),
    "pipeline_bubble_seconds": Meter("Time the worker waited for a plan although there was work."),
    "worker_idle_seconds": Meter("Time the worker waited for a plan, with or without work."),
    "worker_busy_seconds": Meter("Time the worker computed."),
    "iteration_tokens_total": Meter("Tokens computed in one step.", bounds=TOKENS),
    # What the frontends see: some values a request, one a token.
    "request_success": Meter("Outputs that ended, by reason.", ("finished_reason",)),
    "admission_rejections": Meter("Requests that were not taken, by reason.", ("reason",)),
    "time_to_first_token_seconds": Meter("From a request's submission to its first token.", bounds=REQUEST_S),
    "inter_token_latency_seconds": Meter("Between two tokens of an output.", bounds=TOKEN_S),
    "request_time_per_output_token_seconds": Meter(
        "Mean time of an output's tokens after the first.", bounds=TOKEN_S
    ),
    "e2e_request_latency_seconds": Meter("From submission to the last token.", bounds=REQUEST_S),
    "request_queue_time_seconds": Meter("From submission to the first step.", bounds=REQUEST_S),
    "request_inference_time_seconds": Meter("From the first step to the last token.", bounds=REQUEST_S),
    "request_prefill_time_seconds": Meter("From the first step to the first token.", bounds=REQUEST_S),
    "request_decode_time_seconds": Meter("From the first token to the last.", bounds=REQUEST_S),
    "request_prompt_tokens": Meter("Tokens of a prompt.", bounds=TOKENS),
    "request_generation_tokens": Meter("Tokens of an output.", bounds=TOKENS),
    "request_max_num_generation_tokens": Meter("Tokens of a request's longest output.", bounds=TOKENS),
    "request_params_n": Meter("Outputs that a request asks for.", bounds=FEW),
    "request_params_max_tokens": Meter("Tokens that a request allows for an output.", bounds=TOKENS),
    "request_num_preemptions": Meter("How often an output had to make room for others.", bounds=(0.0, *FEW)),
    "http_responses": Meter("HTTP answers.", ("path", "status")),
    "tenant_tokens": Meter("Tokens by API key and kind (prompt, generation).", ("tenant", "kind")),
}


class Distribution:
    """How often values fell into each bucket; the last one has no upper end."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Meters:
    """What one process has counted."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, tuple[str, ...]], float] = {}
        self._distributions: dict[tuple[str, tuple[str, ...]], Distribution] = {}

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """`by` more of the plain count `name`."""
        key = name, labels
        self._counts[key] = self._counts.get(key, 0.0) + by

    def distribution(self, name: str, *labels: str) -> Distribution:
        """That of `name`: hold on to it where values come often."""
        found = self._distributions.get((name, labels))
        if found is None:
            found = self._distributions[name, labels] = Distribution(CATALOGUE[name].bounds)
        return found

    def series(self) -> list[Series]:
        """All of it, for a message."""
        counts = [Series(name, list(labels), [], total) for (name, labels), total in self._counts.items()]
        return counts + [
            Series(name, list(labels), list(held.counts), held.total)
            for (name, labels), held in self._distributions.items()
        ]


def added_up(all_series: Iterable[Series]) -> list[Series]:
    """One series for each name and labels; those that this catalogue does not know are left out."""
    sums: dict[tuple[str, tuple[str, ...]], Series] = {}
    for series in all_series:
        meter = CATALOGUE.get(series.name)
        if meter is None or len(series.labels) != len(meter.labels):
            continue
        if len(series.counts) != (len(meter.bounds) + 1 if meter.bounds else 0):
            continue
        key = series.name, tuple(series.labels)
        held = sums.get(key)
        if held is None:
            sums[key] = Series(series.name, series.labels, list(series.counts), series.total)
        else:
            held.counts = [one + other for one, other in zip(held.counts, series.counts, strict=True)]
            held.total += series.total
    return list(sums.values())
