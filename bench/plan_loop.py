"""The loop of a worker process without a model: plans in, results out, over the real protocol.

Knows which rows of a plan yield a token; what the tokens are and how long a step takes, its user says.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import zmq

from gllm.process import PLANS, RESULTS, Child
from gllm.protocol.channel import Channel
from gllm.protocol.messages import StepPlan, StepResult, WorkerReady
from gllm.protocol.wire import Column


@dataclass(slots=True)
class Step:
    """One plan to be answered."""

    plan: StepPlan
    start_ns: int
    idle_ns: int  # since the answer to the plan before
    num_tokens: int  # of all rows
    num_sampled: int  # rows that yield a token


class PlanLoop:
    """Tells the scheduler of a worker, and then gives its plans one by one, until the launcher says stop."""

    def __init__(self, child: Child, *, num_pages: int, max_model_len: int, vocab_size: int) -> None:
        options, page_size = child.config.scheduler, child.config.worker.assumed_page_size
        self._child = child
        self._plans = Channel.connect(child.context, zmq.PULL, child.address(PLANS))
        self._results = Channel.connect(child.context, zmq.PUSH, child.address(RESULTS))
        self._left: dict[int, int] = {}  # prompt tokens that a slot still has to compute, where there are any
        self._free_since_ns = 0
        ready = WorkerReady(
            epoch=child.epoch,
            num_pages=num_pages,
            page_size=page_size,
            num_slots=options.max_num_seqs,
            max_num_batched_tokens=options.max_num_batched_tokens,
            max_model_len=max_model_len,
            vocab_size=vocab_size,
        )
        self._results.send(ready)

    def steps(self) -> Iterator[Step]:
        """Every step, each to be answered before the next is asked for."""
        poller = zmq.Poller()
        poller.register(self._plans.socket, zmq.POLLIN)
        poller.register(self._child.control.socket, zmq.POLLIN)
        self._child.ready()
        self._free_since_ns = time.monotonic_ns()
        while not self._child.is_told_to_stop():
            plan = self._plans.receive(timeout_s=0)
            if plan is None:
                poller.poll()
                continue
            assert isinstance(plan, StepPlan)
            start_ns = time.monotonic_ns()
            num_tokens = sum(plan.counts) if plan.counts else len(plan.slots)
            yield Step(plan, start_ns, start_ns - self._free_since_ns, num_tokens, self._num_sampled(plan))

    def answer(self, step: Step, tokens: "Column[int]") -> None:
        """The step is computed, just now."""
        plan, end_ns = step.plan, time.monotonic_ns()
        self._results.send(StepResult(plan.epoch, plan.step, tokens, step.start_ns, end_ns, step.idle_ns))
        self._free_since_ns = time.monotonic_ns()

    def _num_sampled(self, plan: StepPlan) -> int:
        """Rows of all slots but those whose prompts are not computed to their end with this plan."""
        left = self._left
        for admit in plan.admits:
            left[admit.slot] = len(admit.tokens) - admit.num_computed_tokens
        if not left:  # decodes only, as most steps are: no loop over rows
            return len(plan.slots)
        num_sampled = 0
        for slot, count in zip(plan.slots, plan.counts or [1] * len(plan.slots), strict=True):
            if left.get(slot, 0) > count:
                left[slot] -= count
            else:
                left.pop(slot, None)
                num_sampled += 1
        return num_sampled
