"""Weights of 8 bits: a matrix as integers and one float32 factor for each of its rows, its scale.

Symmetric, a row's scale being its largest magnitude over 127 (Dettmers et al. 2022): an element is wrong by
half a scale at most, and the other rows do not matter. So a row can be quantised as soon as it is read.
Knows nothing of files, nor of how products are computed.
"""

import torch
from torch import Tensor

from gllm.checkpoint import CheckpointError
from gllm.kernels.dispatch import Operators
from gllm.worker.platform import PlatformError

LARGEST = 127  # -128 is left out: the integers of w and -w differ by their sign only
BLOCK_ELEMENTS = 1 << 20  # that are widened at once

Shapes = dict[str, tuple[int, ...]]


def check_quantization(backend: str, dtype: torch.dtype, operators: Operators, *, has_experts: bool) -> None:
    """Raise `CheckpointError` or `PlatformError` unless the model's matrices can be kept as int8 here."""
    if has_experts:
        raise CheckpointError(
            "quantization is int8, but the model has experts, whose matrices are not quantised: set "
            "quantization to none"
        )
    if torch.int8 not in operators.FORMATS.weights:
        name = str(dtype).removeprefix("torch.")
        raise PlatformError(
            f"quantization is int8, but {backend} in {name} has no products with int8 weights here: they "
            f"take device cpu, dtype float32 (on a CPU with AMX bfloat16, too) and a C compiler; else set "
            f"quantization to none"
        )


def scale_name(parameter: str) -> str:
    """The parameter with the scales of the matrix `parameter`, which ends in `.weight`."""
    return f"{parameter.removesuffix('.weight')}.scale"


def scale_shapes(shapes: Shapes, dtypes: dict[str, torch.dtype]) -> Shapes:
    """The parameters that the int8 matrices among those of `shapes` need beside them."""
    return {scale_name(name): shape[:1] for name, shape in shapes.items() if dtypes[name] == torch.int8}


def quantize_rows(weight: Tensor, values: Tensor, scale: Tensor) -> None:
    """Write `weight` [rows, size], of any float dtype, as int8 `values` [rows, size] and `scale` [rows].

    A row that holds no finite numbers gets a scale that is none either, so that its outputs tell.
    """
    step = max(1, BLOCK_ELEMENTS // max(1, weight.shape[1]))
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        block = weight[rows].float()
        scale[rows] = block.abs().amax(1) / LARGEST
        divisor = torch.where(scale[rows] == 0, 1.0, scale[rows])
        steps = (block / divisor[:, None]).round_().nan_to_num_(0.0)
        values[rows] = steps.clamp_(-LARGEST, LARGEST)  # a scale near the least float32 has few digits
