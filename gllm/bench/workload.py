"""From options to what is sent: the samples of a data set, and when each of them arrives.

Knows the names of options; nothing of engines and HTTP.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gllm.bench.arrivals import Ramp, arrival_times
from gllm.bench.datasets import RandomTokens, Sample, prefix_repetition, sharegpt, sonnet, uniform
from gllm.bench.errors import BenchError
from gllm.frontend.tokenizer import Tokenizer
from gllm.traces import Trace, read_trace

DEFAULT_NUM_PROMPTS = 1000
DEFAULT_LENS = {"sonnet": (550, 150, 200), "random": (1024, 128, 0)}  # input, output, prefix


@dataclass(frozen=True)
class Workload:
    """Samples in the order of sending. arrivals: seconds after the start, where the data set says them.

    is_made_up: the prompts mean nothing, so that an answer's own end would mean nothing either.
    """

    samples: list[Sample]
    arrivals: list[float] | None
    is_made_up: bool


def workload(given: argparse.Namespace, tokenizer: Tokenizer, seed: int) -> Workload:
    """The data set that the options name; raises `BenchError` or `TraceError`."""
    name = dataset_name(given)
    count = DEFAULT_NUM_PROMPTS if given.num_prompts is None else given.num_prompts
    if count < 1:
        raise BenchError(f"--num-prompts is {count}, expected a number above 0")
    if name in NEEDS_FILE and not given.dataset_path:
        raise BenchError(f"--dataset-name {name} needs a file: name it with --dataset-path")
    if name == "trace":
        return _trace(given, RandomTokens(tokenizer, seed), given.num_prompts)
    samples = DATASETS[name](given, count, tokenizer, seed)
    return Workload(samples, None, is_made_up=name not in NEEDS_FILE)


def dataset_name(given: argparse.Namespace) -> str:
    return str(given.dataset_name or ("sharegpt" if given.dataset_path else "random"))


def arrivals(given: argparse.Namespace, work: Workload, seed: int) -> list[float]:
    """When the samples are sent: as the data set says, or else by the rate and law of the options."""
    if work.arrivals is not None:
        return work.arrivals
    ramp = None
    if given.ramp_up_strategy:
        if given.request_rate != math.inf:
            raise BenchError("--request-rate and --ramp-up-strategy both say how fast: remove one of them")
        if given.ramp_up_start_rps is None or given.ramp_up_end_rps is None:
            raise BenchError("--ramp-up-strategy needs --ramp-up-start-rps and --ramp-up-end-rps")
        ramp = Ramp(given.ramp_up_strategy, given.ramp_up_start_rps, given.ramp_up_end_rps)
    rng = np.random.default_rng(seed)
    return arrival_times(len(work.samples), given.request_rate, given.burstiness, rng, ramp)


def _lens(given: argparse.Namespace, name: str) -> tuple[int, int, int]:
    """Input, output and prefix length of a data set: its own option, else the general one, else vLLM's."""
    inputs, outputs, prefix = DEFAULT_LENS[name]
    own = [getattr(given, f"{name}_{part}_len") for part in ("input", "output", "prefix")]
    chosen = (
        first(own[0], given.input_len, inputs),
        first(own[1], given.output_len, outputs),
        first(own[2], None, prefix),
    )
    if chosen[0] < 0 or chosen[1] < 1 or chosen[2] < 0:
        raise BenchError(f"lengths of {chosen[0]} and {chosen[1]} tokens cannot be: set them above 0")
    return chosen


def first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


def _sharegpt(given: argparse.Namespace, count: int, tokenizer: Tokenizer, seed: int) -> list[Sample]:
    return sharegpt(given.dataset_path, count, tokenizer, seed, given.sharegpt_output_len or given.output_len)


def _sonnet(given: argparse.Namespace, count: int, tokenizer: Tokenizer, seed: int) -> list[Sample]:
    inputs, outputs, prefix = _lens(given, "sonnet")
    return sonnet(given.dataset_path, count, tokenizer, seed, num_input_tokens=inputs,
                  num_output_tokens=outputs, num_prefix_tokens=prefix)  # fmt: skip


def _random(given: argparse.Namespace, count: int, tokenizer: Tokenizer, seed: int) -> list[Sample]:
    inputs, outputs, prefix = _lens(given, "random")
    return uniform(count, RandomTokens(tokenizer, seed), num_input_tokens=inputs, num_output_tokens=outputs,
                   num_prefix_tokens=prefix, range_ratio=given.random_range_ratio)  # fmt: skip


def _repetition(given: argparse.Namespace, count: int, tokenizer: Tokenizer, seed: int) -> list[Sample]:
    return prefix_repetition(
        count,
        RandomTokens(tokenizer, seed),
        num_prefixes=given.prefix_repetition_num_prefixes,
        num_prefix_tokens=given.prefix_repetition_prefix_len,
        num_suffix_tokens=given.prefix_repetition_suffix_len,
        num_output_tokens=given.output_len or given.prefix_repetition_output_len,
    )


def _trace(given: argparse.Namespace, tokens: RandomTokens, count: int | None) -> Workload:
    trace: Trace = read_trace(given.dataset_path)
    trace = trace.first(count) if count is not None else trace
    trace = trace.shortened(given.trace_length_divisor)
    if given.trace_time_scale < 0 or not math.isfinite(given.trace_time_scale):
        raise BenchError(f"--trace-time-scale is {given.trace_time_scale:g}, expected a number from 0 on")
    rate = getattr(given, "request_rate", math.inf)
    if rate != math.inf and given.trace_time_scale != 1:
        raise BenchError("--request-rate and --trace-time-scale both stretch time: remove one of them")
    if getattr(given, "ramp_up_strategy", None):
        raise BenchError("a trace has arrivals of its own: remove --ramp-up-strategy")
    trace = trace.slowed(given.trace_time_scale) if rate == math.inf else trace.at_rate(rate)
    samples = [
        Sample(trace.prompt(index, tokens.of), one.num_prompt_tokens, one.num_output_tokens)
        for index, one in enumerate(trace.requests)
    ]
    return Workload(samples, [one.arrival_s for one in trace.requests], is_made_up=True)


DATASETS: dict[str, Callable[[argparse.Namespace, int, Tokenizer, int], list[Sample]]] = {
    "sharegpt": _sharegpt,
    "random": _random,
    "prefix_repetition": _repetition,
    "sonnet": _sonnet,
}
NEEDS_FILE = ("sharegpt", "sonnet", "trace")
