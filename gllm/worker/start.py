"""From a model directory and a few numbers to a runner that is ready to step.

Prints the memory plan before anything large is allocated. Knows nothing of sockets.
"""

import gc
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gllm.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from gllm.kernels.dispatch import operators
from gllm.protocol.messages import MAX_PAGES, MAX_SEQUENCES, Admit, Sampling, StepPlan
from gllm.protocol.wire import column
from gllm.worker.graphs import DecodeGraphs, buckets_for
from gllm.worker.host import usable_cores
from gllm.worker.launch_path import BehindHost, InPlace, LaunchPath
from gllm.worker.memory import Demand, MemoryPlan, MemoryPlanError, Wish, plan_memory
from gllm.worker.models import (
    caveats,
    check_weights,
    kept_parameters,
    load_model,
    longest_context,
    read_architecture,
)
from gllm.worker.models.architecture import Architecture, Shapes
from gllm.worker.platform import FLOATS, Platform, PlatformError, platform_of
from gllm.worker.quantization import check_quantization
from gllm.worker.runner import ModelRunner, allocate_pages
from gllm.worker.slots import Slots
from gllm.worker.staging import Staging
from gllm.worker.stream import Device

if TYPE_CHECKING:
    from gllm.config import DeploymentConfig

log = logging.getLogger("gllm")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUERY_BLOCK_BYTES = 256 * 4  # a context token's share of the attention mask of one block of queries
SAMPLING_BYTES = 1 << 26  # probabilities and their sums, for a block of rows
BEHIND_BYTES = 1 << 29  # on a device behind the host: what its libraries, graphs and splits of keys take
TOKEN_INPUT_BYTES = 64  # room at the start for a token's share of a step's inputs, more than they take ...
ROW_INPUT_BYTES = 4096  # ... for a row's: parameters, and the work of attention over its context ...
MORE_INPUT_BYTES = 1 << 20  # ... and for what few steps bring along
ROW_OUTPUT_BYTES = 256


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker is told; meanings and defaults are the configuration's."""

    model_path: Path
    dtype: str = "auto"
    load_format: str = "auto"
    quantization: str = "none"
    rope_theta: float | None = None
    device: str = "auto"
    max_model_len: int | str | None = None  # None: what the checkpoint says; "auto": as much of it as fits
    page_size: int | None = None  # None: the platform's
    num_pages: int | None = None
    kv_cache_memory_bytes: int | None = None
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    num_threads: int | None = None
    cuda_graphs: bool = True

    @classmethod
    def of(cls, config: "DeploymentConfig") -> "WorkerOptions":
        return cls(
            model_path=Path(config.model.path),
            dtype=config.model.dtype,
            load_format=config.model.load_format,
            quantization=config.model.quantization,
            rope_theta=config.model.rope_theta,
            device=config.worker.device,
            max_model_len=config.model.max_len,
            page_size=config.worker.page_size,
            num_pages=config.worker.num_pages,
            kv_cache_memory_bytes=config.worker.kv_cache_memory_bytes,
            gpu_memory_utilization=config.worker.gpu_memory_utilization,
            max_num_seqs=config.scheduler.max_num_seqs,
            max_num_batched_tokens=config.scheduler.max_num_batched_tokens,
            num_threads=config.worker.num_threads,
            cuda_graphs=config.worker.cuda_graphs,
        )


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint that was looked through and can be computed; nothing large is allocated yet."""

    checkpoint: Checkpoint
    facts: Architecture
    platform: Platform
    dtype: torch.dtype
    dummy: bool  # random weights
    quantized: bool

    def parameters(self) -> tuple[Shapes, dict[str, torch.dtype]]:
        """Shapes and dtypes of what is kept of the weights."""
        ops = operators(self.platform.backend, self.dtype)
        return kept_parameters(
            self.checkpoint, self.facts, self.dtype, ops, dummy=self.dummy, quantized=self.quantized
        )

    def weight_bytes(self) -> int:
        """Of the parameters as they are kept."""
        shapes, dtypes = self.parameters()
        num_bytes = sum(dtypes[name].itemsize * math.prod(shape) for name, shape in shapes.items())
        if self.facts.tied and operators(self.platform.backend, self.dtype).FORMATS.packed_itemsize:
            # The embedding is read by row, its packed copy by the product.
            num_bytes += self.dtype.itemsize * math.prod(shapes["embed.weight"])
        return num_bytes


def look_through(options: WorkerOptions, platform: Platform | None = None) -> Model:
    """Check all of the checkpoint but its weights; raises `CheckpointError` or `PlatformError`."""
    platform = platform or platform_of(options.device)
    dummy = options.load_format == "dummy"
    checkpoint = open_checkpoint(options.model_path, weights=not dummy)
    facts = read_architecture(checkpoint, options.rope_theta)
    if not dummy:
        check_weights(checkpoint, facts)
    dtype = choose_dtype(options.dtype, checkpoint, platform)
    quantized = options.quantization == "int8"
    if quantized:
        ops = operators(platform.backend, dtype)
        check_quantization(platform.backend, dtype, ops, has_experts=facts.experts is not None)
    return Model(checkpoint, facts, platform, dtype, dummy, quantized)


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


def choose_dtype(asked: str, checkpoint: Checkpoint, platform: Platform) -> torch.dtype:
    """The dtype of weights, activations and pages."""
    if asked != "auto":
        if DTYPES[asked] not in platform.dtypes:
            names = " or ".join(str(dtype).removeprefix("torch.") for dtype in platform.dtypes)
            raise PlatformError(
                f"dtype is {asked}, but {platform.backend} computes in {names}: set one of them"
            )
        return DTYPES[asked]
    stored = sorted({entry.dtype for entry in checkpoint.tensors.values()})
    dtype = platform.dtypes[0]
    if platform.takes_stored_dtype:
        # Without weights to look at, what config.json says of them.
        named = checkpoint.config.get("torch_dtype") or checkpoint.config.get("dtype")
        of_checkpoint = FLOATS.get(stored[0]) if len(stored) == 1 else DTYPES.get(str(named))
        dtype = of_checkpoint if of_checkpoint in platform.dtypes else dtype
    log.info(
        "computing in %s (weights are stored as %s); --dtype chooses another",
        str(dtype).removeprefix("torch."), ", ".join(stored) or "none",
    )  # fmt: skip
    return dtype


def plan_for(options: WorkerOptions, model: Model) -> MemoryPlan:
    """The memory plan of this deployment; raises `CheckpointError` or `MemoryPlanError`."""
    if options.max_num_seqs > MAX_SEQUENCES:
        raise MemoryPlanError(f"max_num_seqs is {options.max_num_seqs}, but at most {MAX_SEQUENCES} can run")
    asked, longest = options.max_model_len, longest_context(model.checkpoint, model.facts)
    if isinstance(asked, int) and asked > longest:
        made_for = model.checkpoint.max_model_len
        why = (
            f"the checkpoint was made for {made_for} tokens"
            if longest == made_for
            else f"the model's sliding window of {longest} tokens is not supported beyond that length"
        )
        raise CheckpointError(f"max_model_len is {asked}, but {why}: set it to {longest} or less")
    wish = Wish(
        max_model_len=asked if isinstance(asked, int) else longest,
        shrink_to_fit=asked == "auto",
        max_num_seqs=options.max_num_seqs,
        gpu_memory_utilization=options.gpu_memory_utilization,
        kv_cache_memory_bytes=options.kv_cache_memory_bytes,
        num_pages=options.num_pages,
        kv_cap_bytes=model.platform.kv_cap_bytes,
    )
    plan = plan_memory(_demand(options, model), wish, model.platform.free_bytes())
    if plan.num_pages > MAX_PAGES:
        raise MemoryPlanError(
            f"the KV cache would have {plan.num_pages} pages, but at most {MAX_PAGES} can be numbered: set "
            f"page_size to {-(-plan.num_pages // MAX_PAGES) * plan.demand.page_size} or more"
        )
    return plan


def _demand(options: WorkerOptions, model: Model) -> Demand:
    """What the model takes; the activations are an estimate from above of what is alive at once."""
    facts, size, platform = model.facts, model.dtype.itemsize, model.platform
    page_size = options.page_size or platform.page_size
    q_size, kv_size = facts.num_heads * facts.head_dim, facts.num_kv_heads * facts.head_dim
    alive_in_attention = 3 * (q_size + 2 * kv_size) + q_size
    alive_in_mlp = facts.mlp_elements()
    formats = operators(platform.backend, model.dtype).FORMATS
    activations, packed = formats.activations or model.dtype, formats.packed_itemsize
    per_token = (
        activations.itemsize * (4 * facts.hidden_size + max(alive_in_attention, alive_in_mlp))
        + 8 * facts.head_dim
    )
    per_token += packed * max(facts.hidden_size, q_size, facts.intermediate_size)
    rows = min(options.max_num_seqs, options.max_num_batched_tokens)
    table_bytes = 4 * options.max_num_seqs // page_size + 1
    has_graphs = platform.behind is not None and options.cuda_graphs
    kept_rows = max(rows, platform.fewest_tokens) if has_graphs else 0  # of logits that graphs leave
    logits_bytes = _logits_bytes(rows, options.max_num_seqs, facts.vocab_size, activations.itemsize)
    return Demand(
        weight_bytes=model.weight_bytes(),
        token_bytes=per_token,
        max_num_batched_tokens=options.max_num_batched_tokens,
        logits_bytes=logits_bytes + 4 * kept_rows * facts.vocab_size,
        context_bytes=2 * kv_size * (packed or size) + QUERY_BLOCK_BYTES + table_bytes,
        page_bytes=page_size * facts.kv_elements_per_token() * size,
        page_size=page_size,
        reserved_bytes=0 if platform.behind is None else BEHIND_BYTES,
    )


def _logits_bytes(rows: int, num_slots: int, vocab_size: int, size: int) -> int:
    """Logits as computed and in float32; a second time where log-probabilities of all rows are asked for;
    and the counts of penalties, if every sequence has some."""
    return rows * vocab_size * (4 + size + 4) + num_slots * vocab_size * 4 + SAMPLING_BYTES


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
