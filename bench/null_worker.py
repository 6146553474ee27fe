"""A worker process that computes nothing: every plan is answered at once, or when its step's time is over.

It speaks the real protocol to the real scheduler, so that what is measured before it is the gateway.
Tokens, times and environment: `bench.null_steps`.
"""

from bench.null_steps import NullSteps, sleep_until
from bench.plan_loop import PlanLoop
from gllm.checkpoint import open_checkpoint
from gllm.process import Child, run_child
from gllm.protocol.messages import Role
from gllm.protocol.wire import column

MAX_MODEL_LEN = 1 << 14
TOKENS_A_SLOT = 2048


def serve(child: Child) -> None:
    """Answer every plan until the launcher says stop."""
    steps = NullSteps.of_environment()
    loop = PlanLoop(
        child,
        num_pages=child.config.scheduler.max_num_seqs
        * TOKENS_A_SLOT
        // child.config.worker.assumed_page_size,
        max_model_len=MAX_MODEL_LEN,
        vocab_size=open_checkpoint(child.config.model.path, weights=False).vocab_size,
    )
    for step in loop.steps():
        sleep_until(steps.end_ns())
        loop.answer(step, column([steps.token()]) * step.num_sampled)


if __name__ == "__main__":
    run_child(Role.WORKER, serve)
