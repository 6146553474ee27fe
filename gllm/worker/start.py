"""From a model directory and a few numbers to a runner that is ready to step.

Prints the memory plan before anything large is allocated. Knows nothing of sockets.
"""

import gc
import logging
import time

import torch

from gllm.kernels.dispatch import operators
from gllm.protocol.messages import Admit, Sampling, StepPlan
from gllm.protocol.wire import column
from gllm.worker.demand import plan_for
from gllm.worker.graphs import DecodeGraphs, buckets_for
from gllm.worker.host import usable_cores
from gllm.worker.launch_path import BehindHost, InPlace, LaunchPath
from gllm.worker.look_through import look_through
from gllm.worker.models import caveats, load_model
from gllm.worker.options import WorkerOptions
from gllm.worker.platform import Platform
from gllm.worker.runner import ModelRunner, allocate_pages
from gllm.worker.slots import Slots
from gllm.worker.staging import Staging
from gllm.worker.stream import Device

log = logging.getLogger("gllm")

TOKEN_INPUT_BYTES = 64  # room at the start for a token's share of a step's inputs, more than they take ...
ROW_INPUT_BYTES = 4096  # ... for a row's: parameters, and the work of attention over its context ...
MORE_INPUT_BYTES = 1 << 20  # ... and for what few steps bring along
ROW_OUTPUT_BYTES = 256


def make_runner(options: WorkerOptions, platform: Platform | None = None) -> ModelRunner:
    """Check, plan memory, load; raises `CheckpointError`, `PlatformError` or `MemoryPlanError` with one
    sentence. platform: without it, the one that `options` names."""
    torch.set_num_threads(options.num_threads or usable_cores())
    model = look_through(options, platform)
    facts, dtype, platform = model.facts, model.dtype, model.platform
    for caveat in caveats(model.checkpoint, facts):
        log.warning("%s", caveat)
    plan = plan_for(options, model)
    for line in plan.lines():
        log.info("%s", line)
    ops = operators(platform.backend, dtype)
    staging = None if model.dummy or platform.behind is None else Staging(platform.behind)
    decoder = load_model(
        model.checkpoint, dtype, platform.device, ops,
        facts=facts, dummy=model.dummy, quantized=model.quantized, staging=staging,
    )  # fmt: skip
    page_size = plan.demand.page_size
    slots = Slots(
        options.max_num_seqs, plan.num_pages, page_size, plan.max_model_len, facts.vocab_size,
        platform.device, pages_on_device=platform.behind is not None,
    )  # fmt: skip
    pages = allocate_pages(facts, plan.num_pages, page_size, dtype, platform.device)
    path: LaunchPath = InPlace()
    if platform.behind is not None:
        path = _path_behind_host(options, slots, platform.behind, platform.fewest_tokens)
    runner = ModelRunner(decoder, slots, pages, ops, options.max_num_batched_tokens, path)
    _warm_up(runner)
    gc.collect()
    gc.freeze()  # what stays for ever need not be walked again in the middle of a step
    return runner


def _path_behind_host(options: WorkerOptions, slots: Slots, device: Device, fewest_tokens: int) -> LaunchPath:
    """Launches on `device`, decode steps as graphs if that is wanted."""
    graphs = None
    if options.cuda_graphs:
        from gllm.kernels.tuning import SPLIT_TOKENS

        rows = min(options.max_num_seqs, options.max_num_batched_tokens)
        buckets = buckets_for(rows, fewest_tokens)
        graphs = DecodeGraphs(
            device,
            device.empty(buckets[-1] * slots.vocab_size, torch.float32).view(-1, slots.vocab_size),
            buckets,
            row_splits=-(-slots.max_model_len // SPLIT_TOKENS),
            # Twice the pool, since sequences may share pages.
            most_splits=-(-2 * slots.pool_pages * slots.page_size // SPLIT_TOKENS),
        )
    device.synchronize()  # whatever was made so far was made on another stream
    token_bytes = TOKEN_INPUT_BYTES * options.max_num_batched_tokens
    return BehindHost(
        device,
        graphs,
        input_bytes=token_bytes + ROW_INPUT_BYTES * options.max_num_seqs + MORE_INPUT_BYTES,
        output_bytes=ROW_OUTPUT_BYTES * options.max_num_seqs,
        fewest_tokens=fewest_tokens,
    )


def _warm_up(runner: ModelRunner) -> None:
    """One token through the model: what the libraries set up at the first call is not the first client's
    to wait for, and a model that cannot run says so before it is ready."""
    began = time.monotonic()
    none, slot = column(), column([0])
    admit = Admit(0, column([0]), 1, 0, column([0]), Sampling(0.0, 0, 1.0, 0))
    runner.step(StepPlan(0, 0, slot, none, none, none, [admit], none))
    runner.slots.apply(StepPlan(0, 0, none, none, none, none, [], slot))
    log.info(
        "first step took %.0f ms on %d threads", 1e3 * (time.monotonic() - began), torch.get_num_threads()
    )
