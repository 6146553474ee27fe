"""A worker process that computes nothing: every plan is answered at once, or after a fixed step time.

It speaks the real protocol to the real scheduler, so that what is measured before it is the gateway.
Environment: GLLM_BENCH_STEP_MS (time of a step, 0: none), GLLM_BENCH_TOKENS (the token ids that every
output repeats, separated by commas).
"""

import itertools
import os
import time

import zmq

from gllm.checkpoint import open_checkpoint
from gllm.process import PLANS, RESULTS, Child, run_child
from gllm.protocol.channel import Channel
from gllm.protocol.messages import Role, StepPlan, StepResult, Stop, WorkerReady
from gllm.protocol.wire import column

MAX_MODEL_LEN = 1 << 14


def serve(child: Child) -> None:
    """Answer every plan until the launcher says stop."""
    step_ns = int(float(os.environ.get("GLLM_BENCH_STEP_MS", "0")) * 1e6)
    words = column(map(int, os.environ["GLLM_BENCH_TOKENS"].split(",")))
    options = child.config.scheduler
    vocab_size = open_checkpoint(child.config.model.path, weights=False).vocab_size
    num_slots, page_size = options.max_num_seqs, child.config.worker.assumed_page_size
    num_pages = num_slots * 2048 // page_size
    plans = Channel.connect(child.context, zmq.PULL, child.address(PLANS))
    results = Channel.connect(child.context, zmq.PUSH, child.address(RESULTS))
    results.send(
        WorkerReady(
            child.epoch,
            num_pages,
            page_size,
            num_slots,
            options.max_num_batched_tokens,
            MAX_MODEL_LEN,
            vocab_size,
        )
    )
    child.ready()
    poller = zmq.Poller()
    poller.register(plans.socket, zmq.POLLIN)
    poller.register(child.control.socket, zmq.POLLIN)
    left: dict[int, int] = {}  # prompt tokens that a slot still has to compute
    turns = itertools.cycle(words)
    free_since = due = time.monotonic_ns()
    while True:
        plan = plans.receive(timeout_s=0)
        if plan is None:
            if isinstance(child.told(), Stop):
                return
            poller.poll()
            continue
        assert isinstance(plan, StepPlan)
        start = time.monotonic_ns()
        for admit in plan.admits:
            left[admit.slot] = len(admit.tokens) - admit.num_computed_tokens
        num_tokens = len(plan.slots)
        if plan.counts:
            for slot, count in zip(plan.slots, plan.counts, strict=True):
                left[slot] -= count
            num_tokens = sum(left[slot] <= 0 for slot in plan.slots)
        # By the clock, not by the length of a sleep: the steps of a device do not drift either.
        due = max(due + step_ns, start)
        if due > start:
            time.sleep((due - start) / 1e9)
        end = time.monotonic_ns()
        tokens = column([next(turns)]) * num_tokens
        results.send(StepResult(plan.epoch, plan.step, tokens, start, end, start - free_since))
        free_since = time.monotonic_ns()


if __name__ == "__main__":
    run_child(Role.WORKER, serve)
