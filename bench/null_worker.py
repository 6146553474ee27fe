"""A worker process that computes nothing: every plan is answered at once, or after a fixed step time.

It speaks the real protocol to the real scheduler, so that what is measured before it is the gateway.
Environment: GLLM_BENCH_STEP_MS (time of a step, 0: none), GLLM_BENCH_TOKENS (the token ids that every
output repeats, separated by commas).
"""

import itertools
import os
import time

from bench.plan_loop import PlanLoop
from gllm.checkpoint import open_checkpoint
from gllm.process import Child, run_child
from gllm.protocol.messages import Role
from gllm.protocol.wire import column

MAX_MODEL_LEN = 1 << 14
TOKENS_A_SLOT = 2048


def serve(child: Child) -> None:
    """Answer every plan until the launcher says stop."""
    step_ns = int(float(os.environ.get("GLLM_BENCH_STEP_MS", "0")) * 1e6)
    words = itertools.cycle(map(int, os.environ["GLLM_BENCH_TOKENS"].split(",")))
    loop = PlanLoop(
        child,
        num_pages=child.config.scheduler.max_num_seqs
        * TOKENS_A_SLOT
        // child.config.worker.assumed_page_size,
        max_model_len=MAX_MODEL_LEN,
        vocab_size=open_checkpoint(child.config.model.path, weights=False).vocab_size,
    )
    due_ns = 0
    for step in loop.steps():
        # By the clock, not by the length of a sleep: the steps of a device do not drift either.
        due_ns = max(due_ns + step_ns, step.start_ns)
        if due_ns > step.start_ns:
            time.sleep((due_ns - step.start_ns) / 1e9)
        loop.answer(step, column([next(words)]) * step.num_sampled)


if __name__ == "__main__":
    run_child(Role.WORKER, serve)
