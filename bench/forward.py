"""How long the worker's steps take, and the coefficients that `gllm simulate` computes them with.

    python -m bench.forward [DIR] [--out costs.json] [--json] [--rounds 7] [--num-threads 1]

The real `ModelRunner` of the checkpoint in DIR runs steps of many shapes: decodes over rows and
context, prompt chunks over length and context, and both together; a few also behind pauses. The
time between a step's last work and the next one's first, with one plan in flight, is
`bench.pipeline`'s.
"""

import argparse
import datetime
import itertools
import json
import math
import os
import platform
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.pipeline import idle_times_us
from gllm.protocol.messages import Admit, Sampling, StepPlan
from gllm.protocol.wire import column
from gllm.simulate.cost import Capacity, CostFile, Overheads
from gllm.simulate.fit_wake import fit_wake
from gllm.simulate.slot_table import SlotTable
from gllm.steps.fit import fit
from gllm.steps.shape import StepShape
from gllm.worker.host import free_memory
from gllm.worker.options import WorkerOptions
from gllm.worker.runner import ModelRunner
from gllm.worker.start import make_runner

GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)
TIMED_STEPS = 2  # of a point in each round, behind one that only warms up
PAUSES_S = (0.002, 0.01, 0.05, 0.15)
SEED = 1


@dataclass(frozen=True, slots=True)
class Point:
    """A step: decodes behind `context` tokens, and chunks of `count` tokens behind `before`."""

    num_decodes: int
    context: int
    num_chunks: int = 0
    count: int = 0
    before: int = 0


PAUSED = (
    Point(1, 128),
    Point(4, 128),
    Point(0, 0, 1, 16),
    Point(0, 0, 1, 64),
)  # short, so that a pause shows


def points(max_rows: int, max_tokens: int, max_len: int) -> list[Point]:
    """Steps of every kind that the limits allow."""
    rows, contexts = (1, 2, 4, 8, 16, 32, 64, 128), (16, 128, 512, 1024, 1900)
    found = [Point(*pair) for pair in itertools.product(rows, contexts)]
    counts, befores = (4, 16, 64, 256, 512, 1024, 2048), (0, 300, 1000)
    found += [Point(0, 0, 1, *pair) for pair in itertools.product(counts, befores)]
    found += [Point(0, 0, *pair) for pair in itertools.product((2, 4, 8), (16, 64, 128))]
    found += [
        Point(rows, 256, *pair) for rows in (4, 16, 48) for pair in ((1, 64), (1, 400), (4, 64), (1, 900))
    ]
    return [
        point
        for point in found
        if point.num_decodes + point.num_chunks <= max_rows
        and point.num_decodes + point.num_chunks * point.count <= max_tokens
        and max(point.context + 2 + TIMED_STEPS, point.before + point.count) < max_len
    ]


def num_pages_for(point: Point, page_size: int) -> int:
    decode = -(-(point.context + 2 + TIMED_STEPS) // page_size)
    return point.num_decodes * decode + point.num_chunks * -(-(point.before + point.count) // page_size)


class Stepper:
    """Drives a runner by hand-made plans."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self.table = SlotTable(runner.slots.num_slots)
        self.page_size = runner.slots.page_size
        self.released: list[int] = []
        # Pages that were never written share one page of zeros, which would be read from the cache.
        for keys, values in runner.pages:
            keys.normal_()
            values.normal_()

    def measure(self, point: Point, pause_s: float = 0.0) -> list[tuple[StepShape, float]]:
        """Shapes and seconds of its timed steps, each behind a pause."""
        decodes = list(range(point.num_decodes))
        chunks = list(range(point.num_decodes, point.num_decodes + point.num_chunks))
        self.next_page = 0
        length = point.context + 2 + TIMED_STEPS
        admits = [self._admit(slot, point.context + 1, point.context, length) for slot in decodes]
        first_chunk_page = self.next_page
        steps = []
        for _ in range(1 + TIMED_STEPS):
            self.next_page = first_chunk_page
            length = point.before + point.count
            admits += [self._admit(slot, length, point.before, length) for slot in chunks]
            if pause_s:
                time.sleep(pause_s)
            counts = [1] * len(decodes) + [point.count] * len(chunks)
            steps.append(self._step(decodes + chunks, counts, admits))
            self.released, admits = chunks, []
        self.released = decodes + chunks
        return steps[1:]

    def _admit(self, slot: int, num_tokens: int, num_computed: int, length: int) -> Admit:
        pages = range(self.next_page, self.next_page + -(-length // self.page_size))
        self.next_page = pages.stop
        tokens = column(1 + (slot + position) % 500 for position in range(num_tokens))
        return Admit(slot, tokens, len(tokens), num_computed, column(pages), GREEDY)

    def _step(self, slots: list[int], counts: list[int], admits: list[Admit]) -> tuple[StepShape, float]:
        none = column()
        plan = StepPlan(0, 0, column(slots), column(counts), none, none, admits, column(self.released))
        began = time.perf_counter()
        self.runner.step(plan)
        seconds = time.perf_counter() - began
        return self.table.take(plan), seconds


def measured_steps(stepper: Stepper, chosen: list[Point], rounds: int) -> list[tuple[StepShape, float]]:
    """The typical step of each point; the rounds go through the points in random order, so that a
    disturbance of the machine does not fall on one of them alone."""
    order = random.Random(SEED)
    times: dict[Point, list[float]] = {point: [] for point in chosen}
    shapes: dict[Point, StepShape] = {}
    for _ in range(rounds):
        for point in order.sample(chosen, len(chosen)):
            for shape, seconds in stepper.measure(point):
                shapes[point] = shape
                times[point].append(seconds)
    return [(shapes[point], undisturbed(times[point])) for point in chosen]


def undisturbed(times: list[float]) -> float:
    """The lower quartile: whatever else runs on the machine only ever lengthens a step."""
    return statistics.quantiles(times, n=4)[0]


def seconds_behind_pauses(stepper: Stepper, chosen: list[Point], rounds: int) -> list[float]:
    """By how much a step takes longer behind each of the pauses, in the median over points."""
    pauses = (0.0, *PAUSES_S)
    times: dict[tuple[Point, float], list[float]] = {}
    for _ in range(rounds):
        for point, pause in itertools.product(chosen, pauses):
            found = times.setdefault((point, pause), [])
            found += [seconds for _, seconds in stepper.measure(point, pause)]
    typical = {key: undisturbed(found) for key, found in times.items()}
    return [
        statistics.median(typical[point, pause] - typical[point, 0.0] for point in chosen)
        for pause in PAUSES_S
    ]


def measure(
    path: Path,
    rounds: int = 7,
    num_threads: int | None = None,
    max_num_seqs: int = 64,
    max_tokens: int = 1024,
) -> tuple[CostFile, list[tuple[StepShape, float]]]:
    """The cost file of the checkpoint in `path` on this machine, and the steps it is fitted to."""
    options = WorkerOptions(
        path, max_num_seqs=max_num_seqs, max_num_batched_tokens=max_tokens, num_threads=num_threads
    )
    runner = make_runner(options)
    slots = runner.slots
    chosen = [
        point
        for point in points(max_num_seqs, max_tokens, slots.max_model_len)
        if num_pages_for(point, slots.page_size) <= slots.pool_pages
    ]
    stepper = Stepper(runner)
    steps = measured_steps(stepper, chosen, rounds)
    more = seconds_behind_pauses(stepper, [point for point in chosen if point in PAUSED], rounds)
    step, error = fit(*zip(*steps, strict=True))
    turnaround_s = statistics.median(idle_times_us(batch=16, sleep_ms=2.0, num_steps=200, depth=1)) / 1e6
    facts = runner.model.facts
    size = runner.pages[0][0].element_size()
    return CostFile(
        model=str(path),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}",
        date=datetime.date.today().isoformat(),
        step=step,
        # The way to a client is not measured here: see bench.simulate_vs_live.
        overheads=Overheads(
            submit_s=0.0,
            plan_s=turnaround_s / 2,
            result_s=turnaround_s / 2,
            deliver_s=0.0,
            wake=fit_wake(PAUSES_S, more),
        ),
        capacity=Capacity(
            memory_bytes=free_memory(),
            weight_bytes=size * sum(map(math.prod, facts.parameter_shapes().values())),
            kv_bytes_per_token=facts.kv_elements_per_token() * size,
            max_model_len=slots.max_model_len,
            vocab_size=facts.vocab_size,
        ),
        fit=error,
    ), steps


def report(costs: CostFile, steps: list[tuple[StepShape, float]]) -> str:
    """The measured and the fitted steps as a table, and the fit."""
    lines = [f"{costs.model} on {costs.machine}"]
    lines.append(f"{'tokens':>7} {'rows':>5} {'chunks':>7} {'context':>8} {'ms':>9} {'fitted ms':>10}")
    lines += [
        f"{s.num_tokens:>7} {s.num_rows:>5} {s.num_chunks:>7} {s.num_context_tokens:>8} "
        f"{1e3 * seconds:>9.2f} {1e3 * costs.step.seconds(s):>10.2f}"
        for s, seconds in steps
    ]
    lines += [f"{name:<18} {value:.4g}" for name, value in costs.step.model_dump(exclude={"kind"}).items()]
    assert costs.fit is not None
    wake = costs.overheads.wake
    lines.append(
        f"behind a long pause {1e3 * wake.longest_s:.2f} ms more, 63 % of it after {1e3 * wake.pause_s:g} ms"
    )
    lines.append(
        f"relative error of {costs.fit.num_steps} steps: median {100 * costs.fit.median:.1f} %, "
        f"p90 {100 * costs.fit.p90:.1f} %"
    )
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="?", type=Path, default=Path("demo/model"), help="directory of a checkpoint"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the cost file to write")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--num-threads", type=int)
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--max-num-batched-tokens", type=int, default=1024)
    parser.add_argument("--json", action="store_true", help="print the cost file instead of a table")


def run(given: argparse.Namespace) -> int:
    costs, steps = measure(
        given.path, given.rounds, given.num_threads, given.max_num_seqs, given.max_num_batched_tokens
    )
    if given.out is not None:
        costs.save(given.out)
    shown: dict[str, Any] = costs.model_dump()
    print(json.dumps(shown) if given.json else report(costs, steps))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    raise SystemExit(main())
