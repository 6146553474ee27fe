"""A worker process that computes nothing: it sleeps for every step and notes how long it waited.

It speaks the real protocol to the real scheduler, so what it measures is everything but the model.
Environment: GLLM_BENCH_SLEEP_MS (one step), GLLM_BENCH_SLEEP_US_PER_TOKEN (0 if not set),
GLLM_BENCH_OUT (JSON lines: idle nanoseconds, rows).
"""

import json
import os
import time
from pathlib import Path

import zmq

from gllm.process import PLANS, RESULTS, Child, run_child
from gllm.protocol.channel import Channel
from gllm.protocol.messages import Role, StepPlan, StepResult, Stop, WorkerReady
from gllm.protocol.wire import column

MAX_MODEL_LEN = 1 << 16


def serve(child: Child) -> None:
    """Answer every plan after the sleep, until the launcher says stop."""
    sleep_s = float(os.environ["GLLM_BENCH_SLEEP_MS"]) / 1e3
    token_s = float(os.environ.get("GLLM_BENCH_SLEEP_US_PER_TOKEN", "0")) / 1e6
    options = child.config.scheduler
    plans = Channel.connect(child.context, zmq.PULL, child.address(PLANS))
    results = Channel.connect(child.context, zmq.PUSH, child.address(RESULTS))
    num_slots, page_size = options.max_num_seqs, child.config.worker.assumed_page_size
    num_pages = child.config.worker.num_pages or num_slots * MAX_MODEL_LEN // page_size // 8
    results.send(
        WorkerReady(
            child.epoch,
            num_pages,
            page_size,
            num_slots,
            options.max_num_batched_tokens,
            MAX_MODEL_LEN,
            vocab_size=1 << 15,
        )
    )
    child.ready()
    poller = zmq.Poller()
    poller.register(plans.socket, zmq.POLLIN)
    poller.register(child.control.socket, zmq.POLLIN)
    left: dict[int, int] = {}  # prompt tokens that a slot still has to compute
    steps = []
    free_since = time.monotonic_ns()
    while True:
        plan = plans.receive(timeout_s=0)
        if plan is None:
            if isinstance(child.told(), Stop):
                break
            poller.poll()
            continue
        assert isinstance(plan, StepPlan)
        start = time.monotonic_ns()
        for admit in plan.admits:
            left[admit.slot] = len(admit.tokens) - admit.num_computed_tokens
        counts = plan.counts or column([1] * len(plan.slots))
        for slot, count in zip(plan.slots, counts, strict=True):
            left[slot] -= count
        num_tokens = sum(left[slot] <= 0 for slot in plan.slots)
        time.sleep(sleep_s + token_s * sum(counts))
        end = time.monotonic_ns()
        results.send(
            StepResult(plan.epoch, plan.step, column([7]) * num_tokens, start, end, start - free_since)
        )
        steps.append((start - free_since, len(plan.slots)))
        free_since = time.monotonic_ns()
    Path(os.environ["GLLM_BENCH_OUT"]).write_text(json.dumps(steps))


if __name__ == "__main__":
    run_child(Role.WORKER, serve)
