"""Microseconds that the scheduler's core takes for one decode step: `plan` and `commit`.

    python -m bench.scheduler [--json] [--quick]

No sockets, no worker: the core alone, with results made up. Rows: sequences that run; context: tokens
that each has; hit: whether its prompt was found in the prefix cache. `admit` is the one step that
lets all of them in, divided by their number: there the prefix keys are made or looked up.
"""

import argparse
import gc
import json
import statistics
import time
from dataclasses import asdict, dataclass

from gllm.protocol.codec import decode, encode
from gllm.protocol.messages import Sampling, StepPlan, StepResult, Submit, WorkerReady
from gllm.protocol.wire import column
from gllm.scheduler.core import Scheduler
from gllm.scheduler.intake import Limits
from gllm.scheduler.policy import Fcfs, Policy, Priority, TokenThrottling

PAGE_SIZE = 16
NUM_STEPS = 300
DEPTH = 2
MANY = 1 << 30
POLICIES: dict[str, Policy] = {
    "fcfs": Fcfs(),
    "priority": Priority(),
    "token_throttling": TokenThrottling(max_tokens=MANY, iterations=1, free_threshold=0.0),
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    policy: str
    rows: int
    context: int
    hit: bool
    admit_us: float  # a sequence
    plan_us_p50: float
    commit_us_p50: float
    step_us_p50: float
    step_us_p99: float


class Bench:
    """A core in which `num_rows` sequences of `context` tokens decode."""

    def __init__(self, policy: Policy, num_rows: int, context: int, hit: bool) -> None:
        pages = -(-(context + 2 * NUM_STEPS) // PAGE_SIZE) * (num_rows + 1)
        ready = WorkerReady(1, pages, PAGE_SIZE, num_rows, MANY, MANY, 1 << 17)
        limits = Limits(num_rows, MANY, MANY, MANY, DEPTH, share_prefixes=True)
        self.core = Scheduler(limits, policy, ready)
        if hit:  # one request leaves the prompt behind for all others
            self._submit(0, [1] * context, 1)
            self._commit(self._plan())
        for number in range(num_rows):
            prompt = [1] * context if hit else [2 + number] * context
            self._submit(1 + number, prompt, NUM_STEPS + 2 * PAGE_SIZE)

    def admit(self) -> float:
        """Seconds of the step that lets all in."""
        began = time.perf_counter()
        plan = self.core.plan(0.0)
        seconds = time.perf_counter() - began
        assert plan is not None
        assert self.core.waiting.num_tokens == 0
        self._commit(plan)
        return seconds

    def step(self) -> tuple[float, float]:
        """Seconds of one plan and of one commit, with another plan in flight all the time."""
        if not self.core.flights:
            self._plan()
        oldest = self.core.flights[0]
        began = time.perf_counter()
        plan = self.core.plan(0.0)
        planned = time.perf_counter()
        assert plan is not None
        result = StepResult(1, oldest.step, column([7]) * len(oldest.rows), 0, 0, 0)
        resumed = time.perf_counter()
        self.core.commit(result, 0.0)
        return planned - began, time.perf_counter() - resumed

    def _submit(self, request_id: int, prompt: list[int], max_tokens: int) -> None:
        greedy = Sampling(0.0, 0, 1.0, 0)
        request = Submit(request_id, column(prompt), [], greedy, max_tokens, column([0]), 1, 0, 0.0, "")
        assert self.core.submit(b"bench", request, 0.0) is None, "the bench's own request was refused"

    def _plan(self) -> StepPlan:
        plan = self.core.plan(0.0)
        assert plan is not None
        decoded = decode(encode(plan))
        assert isinstance(decoded, StepPlan)
        return decoded

    def _commit(self, plan: StepPlan) -> None:
        self.core.commit(StepResult(1, plan.step, column([7]) * len(plan.slots), 0, 0, 0), 0.0)


def measure(name: str, num_rows: int, context: int, hit: bool) -> Row:
    """Medians over NUM_STEPS decode steps, garbage collected before and not meanwhile."""
    bench = Bench(POLICIES[name], num_rows, context, hit)
    admit = bench.admit()
    gc.collect()
    gc.disable()
    times = [bench.step() for _ in range(NUM_STEPS)]
    gc.enable()
    both = [plan + commit for plan, commit in times]
    return Row(
        name,
        num_rows,
        context,
        hit,
        round(admit / num_rows * 1e6, 1),
        round(statistics.median(plan for plan, _ in times) * 1e6, 1),
        round(statistics.median(commit for _, commit in times) * 1e6, 1),
        round(statistics.median(both) * 1e6, 1),
        round(statistics.quantiles(both, n=100)[98] * 1e6, 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    parser.add_argument("--quick", action="store_true", help="fcfs at 256 rows alone")
    given = parser.parse_args()
    cases = [
        (name, rows, context, hit)
        for name in POLICIES
        for rows in (1, 64, 256, 1024)
        for context in (128, 2048, 32768)
        for hit in (False, True)
        if rows * context <= 256 * 32768  # above, the prompts alone take gigabytes
    ]
    if given.quick:
        cases = [case for case in cases if case[0] == "fcfs" and case[1] == 256]
    if not given.json:
        print("microseconds; admit: a sequence, the others: a step")
        print(
            f"{'policy':<17}{'rows':>5}{'context':>8}  {'cache':<5}{'admit':>8}{'plan':>8}{'commit':>8}"
            f"{'step p50':>9}{'step p99':>9}"
        )
    for case in cases:
        row = measure(*case)
        if given.json:
            print(json.dumps(asdict(row)))
        else:
            print(
                f"{row.policy:<17}{row.rows:>5}{row.context:>8}  {'hit' if row.hit else 'miss':<5}"
                f"{row.admit_us:>8.1f}{row.plan_us_p50:>8.1f}{row.commit_us_p50:>8.1f}"
                f"{row.step_us_p50:>9.1f}{row.step_us_p99:>9.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
