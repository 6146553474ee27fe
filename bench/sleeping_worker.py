"""A worker process that computes nothing: it sleeps for every step and notes how long it waited.

It speaks the real protocol to the real scheduler, so what it measures is everything but the model.
Environment: GLLM_BENCH_SLEEP_MS (one step), GLLM_BENCH_SLEEP_US_PER_TOKEN (0 if not set),
GLLM_BENCH_OUT (a JSON list: idle nanoseconds and rows of each step).
"""

import json
import os
import time
from pathlib import Path

from bench.plan_loop import PlanLoop
from gllm.process import Child, run_child
from gllm.protocol.messages import Role
from gllm.protocol.wire import column

MAX_MODEL_LEN = 1 << 16
TOKENS_A_SLOT = MAX_MODEL_LEN // 8
TOKEN = 7


def serve(child: Child) -> None:
    """Answer every plan after the sleep, until the launcher says stop."""
    sleep_s = float(os.environ["GLLM_BENCH_SLEEP_MS"]) / 1e3
    token_s = float(os.environ.get("GLLM_BENCH_SLEEP_US_PER_TOKEN", "0")) / 1e6
    num_slots, options = child.config.scheduler.max_num_seqs, child.config.worker
    num_pages = options.num_pages or num_slots * TOKENS_A_SLOT // options.assumed_page_size
    loop = PlanLoop(child, num_pages=num_pages, max_model_len=MAX_MODEL_LEN, vocab_size=1 << 15)
    steps = []
    for step in loop.steps():
        time.sleep(sleep_s + token_s * step.num_tokens)
        loop.answer(step, column([TOKEN]) * step.num_sampled)
        steps.append((step.idle_ns, len(step.plan.slots)))
    Path(os.environ["GLLM_BENCH_OUT"]).write_text(json.dumps(steps))


if __name__ == "__main__":
    run_child(Role.WORKER, serve)
