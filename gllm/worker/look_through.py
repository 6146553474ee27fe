"""A look through a checkpoint: what of it will be computed here, in which numbers.

Reads configuration and headers, no weight, and allocates nothing large. Knows nothing of how much memory
there is.
"""

import logging
import math
from dataclasses import dataclass

import torch

from gllm.checkpoint import Checkpoint, open_checkpoint
from gllm.kernels.dispatch import operators
from gllm.worker.models import check_weights, kept_parameters, read_architecture
from gllm.worker.models.architecture import Architecture, Shapes
from gllm.worker.options import WorkerOptions
from gllm.worker.platform import FLOATS, Platform, PlatformError, platform_of
from gllm.worker.quantization import check_quantization

log = logging.getLogger("gllm")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
        """Of the parameters as they are stored.

        Those that are coded without loss (native/coded.h) take less, which only their bits can tell; at
        worst a hundredth more.
        """
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
