"""The operators for a CPU with a matrix unit for bfloat16: so are weights, pages and what products take.

Everything between products is float32, as are their sums: less is rounded than where activations are
stored in bfloat16, and nothing is slower. Attention, which chooses by the type of pages, rounds queries and
weights, too. Shapes and meanings are documented in `reference.py`.
"""

from typing import Any

import torch
from torch import Tensor

from gllm.kernels import cpu, cpu_native
from gllm.kernels.formats import Formats
from gllm.kernels.packed_linear import PackedLinear, packed

FORMATS = Formats(weights=(torch.int8,), packed_itemsize=2, activations=torch.float32)


def __getattr__(name: str) -> Any:
    """The operators between products."""
    return getattr(cpu_native, name)


def linear(weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> PackedLinear:
    return _rounding(weight, bias, scale, is_gated=False)


def gated_linear(weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> PackedLinear:
    return _rounding(weight, bias, scale, is_gated=True)


def _rounding(weight: Tensor, bias: Tensor | None, scale: Tensor | None, *, is_gated: bool) -> PackedLinear:
    return packed(weight, bias, scale, is_gated=is_gated, on_matrix_unit=True, is_rounded=True)


def mix_experts(x: Tensor, gate_up: Tensor, down: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    return cpu.mix_experts(x.to(gate_up.dtype), gate_up, down, chosen, weights).float()
