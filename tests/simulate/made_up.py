"""Small traces and costs for the simulator's tests."""

from gllm.config import DeploymentConfig, from_options
from gllm.simulate.cost import Capacity, CostFile, Fitted, Overheads
from gllm.traces import Trace, TraceRequest

NO_OVERHEADS = Overheads(submit_s=0.0, plan_s=0.0, result_s=0.0, deliver_s=0.0)
STEP = Fitted(step_s=0.002, token_s=1e-4, row_s=5e-5, chunk_s=2e-4, context_token_s=1e-6, pair_s=1e-7)
CAPACITY = Capacity(
    memory_bytes=10**9, weight_bytes=10**6, kv_bytes_per_token=1000, max_model_len=4096, vocab_size=1000
)


def costs(overheads: Overheads = NO_OVERHEADS) -> CostFile:
    return CostFile(
        model="made up",
        machine="none",
        date="2026-01-01",
        step=STEP,
        overheads=overheads,
        capacity=CAPACITY,
    )


def config(**options: object) -> DeploymentConfig:
    return from_options(model="made up", **options)


def trace(
    *rows: tuple[float, int, int], block_size: int = 0, blocks: tuple[tuple[int, ...], ...] = ()
) -> Trace:
    """A request a row: arrival, prompt tokens, output tokens; and the blocks of each, if any."""
    return Trace(
        "made up",
        block_size,
        [
            TraceRequest(arrival, num_prompt, num_output, blocks[number] if blocks else ())
            for number, (arrival, num_prompt, num_output) in enumerate(rows)
        ],
    )
