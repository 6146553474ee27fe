"""The pieces of a decoder that hold parameters, and the angles of rotary position embedding.

Knows nothing of families, checkpoints or pages.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Linear:
    """x @ weight.T + bias. weight: [out, in]; bias: [out] or none."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class Embedding:
    """Rows of weight [vocab, size] by token id."""

    weight: Tensor

    def __call__(self, token_ids: Tensor) -> Tensor:
        return self.weight.index_select(0, token_ids)


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Slow rotations are slowed further by `factor`, fast ones stay, those between are blended.

    Source: Llama 3.1's reference code (`apply_scaling`).
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_len: int

    def __call__(self, inv_freq: Tensor) -> Tensor:
        wavelength = 2 * math.pi / inv_freq
        low, high = self.low_freq_factor, self.high_freq_factor
        # 0 at wavelengths of original_max_len / low and above, 1 at original_max_len / high and below
        fast = ((self.original_max_len / wavelength - low) / (high - low)).clamp(0, 1)
        return (1 - fast) * inv_freq / self.factor + fast * inv_freq


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """All rotations are slowed by `factor`. Source: Chen et al. 2023 (position interpolation)."""

    factor: float

    def __call__(self, inv_freq: Tensor) -> Tensor:
        return inv_freq / self.factor


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary position embedding: pair i of a head's first `dim` dimensions turns by
    position * theta ** (-2i / dim), scaled; `interleaved` pairs are (2i, 2i + 1), others (i, i + dim / 2)."""

    dim: int
    theta: float
    scaling: LinearScaling | Llama3Scaling | None = None
    interleaved: bool = False

    def inverse_frequencies(self) -> Tensor:
        """float32 [dim / 2], radians a token."""
        inv_freq = 1.0 / self.theta ** (torch.arange(0, self.dim, 2, dtype=torch.int64).float() / self.dim)
        return inv_freq if self.scaling is None else self.scaling(inv_freq)


def angles(positions: Tensor, inv_freq: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, float32 [num_tokens, dim / 2], of int64 positions [num_tokens]."""
    turned = positions[:, None].float() * inv_freq
    return turned.cos(), turned.sin()
