"""One simulated run: the real core, fed by a trace, before a worker that only takes time.

A virtual clock goes from event to event: a request reaches the scheduler, or a result does. The
worker computes its plans one behind the other; the scheduler plans whenever fewer than the
deployment's plans are in flight. Nothing is random, so that a run can be repeated exactly. Knows
costs as numbers only; what the times mean to a user is `report`'s.
"""

import time
from array import array
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gllm.config import DeploymentConfig
from gllm.protocol.messages import (
    MAX_PAGES,
    RejectCode,
    Sampling,
    Stats,
    StepPlan,
    StepResult,
    Submit,
    WorkerReady,
)
from gllm.protocol.wire import column
from gllm.scheduler.core import Scheduler
from gllm.scheduler.intake import Limits
from gllm.scheduler.policy import policy_of
from gllm.simulate.cost import CostError, CostFile
from gllm.simulate.prompts import Prompts
from gllm.simulate.slot_table import SlotTable
from gllm.traces import Trace

FRONTEND = b"simulate"
EPOCH = 1
TOKEN = 7  # every sampled token: lengths are forced, so that none ends a sequence
GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)


class StuckError(RuntimeError):
    """Requests wait, nothing runs, and the core plans nothing: a bug of the core."""


@dataclass(slots=True)
class Deliveries:
    """Which request got tokens when, in order of time: column i is one token."""

    request_ids: "array[int]" = field(default_factory=lambda: array("i"))
    num_tokens: "array[int]" = field(default_factory=lambda: array("q"))  # of each commit
    times: "array[float]" = field(default_factory=lambda: array("d"))  # of each commit, seconds

    def add(self, request_ids: "array[int]", now: float) -> None:
        self.request_ids.extend(request_ids)
        self.num_tokens.append(len(request_ids))
        self.times.append(now)

    def columns(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
        """The request and the time of every token."""
        return (
            np.array(self.request_ids, np.int32),
            np.repeat(np.array(self.times), np.array(self.num_tokens, np.int64)),
        )


@dataclass(slots=True)
class Run:
    """What happened. Times are seconds of the virtual clock, which begins with the first request."""

    trace: Trace
    deliveries: Deliveries
    refusals: dict[int, RejectCode]  # by number of the request
    stats: Stats  # of the core, at the end
    duration_s: float  # to the last token
    busy_s: float  # that the worker computed
    running_s: float  # sequences that run, integrated over time
    waiting_s: float
    most_at_once: int  # sequences that run or wait
    wall_s: float  # that the simulation took


class Simulation:
    """The core, the worker's clock, and the results on their way back."""

    def __init__(self, trace: Trace, config: DeploymentConfig, costs: CostFile) -> None:
        self.trace = trace
        self.costs = costs
        ready = worker_ready(config, costs)
        self.core = Scheduler(Limits.of(config.scheduler), policy_of(config.scheduler), ready)
        self.depth = config.scheduler.micro_batches
        self.table = SlotTable(ready.num_slots)
        self.prompts = Prompts(trace, ready.vocab_size)
        self.results: deque[tuple[float, StepResult]] = deque()  # with the time at which each comes
        self.deliveries = Deliveries()
        self.refusals: dict[int, RejectCode] = {}
        self.num_submitted = 0
        self.worker_free_at = 0.0
        self.busy_s = self.running_s = self.waiting_s = 0.0
        self.most_at_once = 0

    def run(self) -> Run:
        """Serve the whole trace."""
        began = time.perf_counter()
        now = 0.0
        while (then := self._next_event()) is not None:
            self._pass_time(then - now)
            now = then
            self._take_requests(now)
            self._commit_finished_steps(now)
            self._plan_ahead(now)
        if self.core.waiting or self.core.running:
            raise StuckError(f"{len(self.core.waiting)} sequences wait for ever at {now:.3f} s")
        return Run(
            trace=self.trace,
            deliveries=self.deliveries,
            refusals=self.refusals,
            stats=self.core.stats(now),
            duration_s=now + self.costs.overheads.deliver_s,
            busy_s=self.busy_s,
            running_s=self.running_s,
            waiting_s=self.waiting_s,
            most_at_once=self.most_at_once,
            wall_s=time.perf_counter() - began,
        )

    def _next_event(self) -> float | None:
        """When something comes to the scheduler next."""
        times = []
        if self.num_submitted < len(self.trace.requests):
            times.append(self._arrival())
        if self.results:
            times.append(self.results[0][0])
        return min(times, default=None)

    def _arrival(self) -> float:
        """When the next request reaches the scheduler."""
        return self.trace.requests[self.num_submitted].arrival_s + self.costs.overheads.submit_s

    def _pass_time(self, seconds: float) -> None:
        num_running, num_waiting = len(self.core.running), len(self.core.waiting)
        self.running_s += num_running * seconds
        self.waiting_s += num_waiting * seconds
        self.most_at_once = max(self.most_at_once, num_running + num_waiting)

    def _take_requests(self, now: float) -> None:
        while self.num_submitted < len(self.trace.requests) and self._arrival() <= now:
            number = self.num_submitted
            self.num_submitted += 1
            request = Submit(
                request_id=number,
                prompt=self.prompts.tokens(number),
                generated=[],
                sampling=GREEDY,
                max_tokens=self.trace.requests[number].num_output_tokens,
                stop_token_ids=column(),
                n=1,
                priority=0,
                timeout_s=0.0,
                cache_salt="",
            )
            rejected = self.core.submit(FRONTEND, request, now)
            if rejected is not None:
                self.refusals[number] = RejectCode(rejected.code)

    def _commit_finished_steps(self, now: float) -> None:
        while self.results and self.results[0][0] <= now:
            _, result = self.results.popleft()
            for tokens in self.core.commit(result, now).values():
                self.deliveries.add(tokens.request_ids, now + self.costs.overheads.deliver_s)

    def _plan_ahead(self, now: float) -> None:
        while len(self.core.flights) < self.depth:
            plan = self.core.plan(now)
            if plan is None:
                return
            self._compute(plan, now + self.costs.overheads.plan_s)

    def _compute(self, plan: StepPlan, arrives_at: float) -> None:
        """The worker's part: its steps run one behind the other."""
        shape = self.table.take(plan)
        pause = max(arrives_at - self.worker_free_at, 0.0)
        seconds = self.costs.step.seconds(shape) + self.costs.overheads.wake.seconds(pause)
        self.busy_s += seconds
        self.worker_free_at += pause + seconds
        tokens = column([TOKEN]) * shape.num_sampled
        result = StepResult(plan.epoch, plan.step, tokens, 0, 0, 0)
        self.results.append((self.worker_free_at + self.costs.overheads.result_s, result))


def simulate(trace: Trace, config: DeploymentConfig, costs: CostFile) -> Run:
    """Serve `trace` by the deployment `config` where things take as long as `costs` says."""
    return Simulation(trace, config, costs).run()


def worker_ready(config: DeploymentConfig, costs: CostFile) -> WorkerReady:
    """What the worker of this deployment would say of itself; raises `CostError` where it cannot be."""
    worker, capacity = config.worker, costs.capacity
    asked = config.model.max_len
    max_model_len = asked if isinstance(asked, int) else capacity.max_model_len
    if max_model_len > capacity.max_model_len:
        raise CostError(
            f"max_model_len is {max_model_len}, but {costs.model} was made for "
            f"{capacity.max_model_len} tokens"
        )
    num_pages = worker.num_pages
    if num_pages is None:
        left = capacity.memory_bytes * worker.gpu_memory_utilization - capacity.weight_bytes
        cache_bytes = worker.kv_cache_memory_bytes or int(left)
        num_pages = cache_bytes // (capacity.kv_bytes_per_token * worker.assumed_page_size)
    if num_pages < 1 or num_pages > MAX_PAGES:
        raise CostError(
            f"the KV cache would have {num_pages} pages, but 1 to {MAX_PAGES} are possible: set num_pages, "
            "or change gpu_memory_utilization"
        )
    return WorkerReady(
        epoch=EPOCH,
        num_pages=num_pages,
        page_size=worker.assumed_page_size,
        num_slots=config.scheduler.max_num_seqs,
        max_num_batched_tokens=config.scheduler.max_num_batched_tokens,
        max_model_len=max_model_len,
        vocab_size=capacity.vocab_size,
    )
