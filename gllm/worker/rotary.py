"""Rotary position embedding: how fast each pair of dimensions turns, and the angles at given positions.

Knows nothing of families, of config.json or of how heads are rotated.

Every scaling but one turns all sequences alike. Dynamic NTK scaling has another base at every length
beyond the original one, and cached keys keep the rotation they were written with. A library that runs
a prompt in one pass rotates it with the base for its whole length, and every token that follows with
the base for the length it brings; a token at position p behind a prompt of n tokens is therefore
rotated for max(n, p + 1). That is a function of the two alone: chunks, preemptions and the company of
other sequences do not change it.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Scaling(Protocol):
    """A way to reach contexts longer than those of the training."""

    def __call__(self, inv_freq: Tensor, theta: float) -> Tensor:
        """The scaled inverse frequencies; theta is the base that `inv_freq` was made with."""

    @property
    def magnitude(self) -> float:
        """Factor of every cos and sin."""


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """All rotations are slowed by `factor`. Source: Chen et al. 2023 (position interpolation)."""

    factor: float
    magnitude: float = 1.0

    def __call__(self, inv_freq: Tensor, theta: float) -> Tensor:
        del theta
        return inv_freq / self.factor


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Slow rotations are slowed further by `factor`, fast ones stay, those between are blended.

    Source: Llama 3.1's reference code (`apply_scaling`).
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_len: int
    magnitude: float = 1.0

    def __call__(self, inv_freq: Tensor, theta: float) -> Tensor:
        del theta
        wavelength = 2 * math.pi / inv_freq
        low, high = self.low_freq_factor, self.high_freq_factor
        # 0 at wavelengths of original_max_len / low and above, 1 at original_max_len / high and below
        fast = ((self.original_max_len / wavelength - low) / (high - low)).clamp(0, 1)
        return (1 - fast) * inv_freq / self.factor + fast * inv_freq


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """As Llama 3's, but the blend is linear in the number of the pair, from the one that makes
    `beta_fast` turns in the original length to the one that makes `beta_slow`; and attention is
    sharpened by `magnitude`. Source: Peng et al. 2023.
    """

    factor: float
    original_max_len: int
    beta_fast: float
    beta_slow: float
    truncate: bool  # the two pairs are whole numbers
    magnitude: float

    def __call__(self, inv_freq: Tensor, theta: float) -> Tensor:
        num_pairs = len(inv_freq)
        low, high = (
            self._pair_of(self.beta_fast, num_pairs, theta),
            self._pair_of(self.beta_slow, num_pairs, theta),
        )
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * num_pairs - 1)
        width = high - low or 0.001
        slow = ((torch.arange(num_pairs, dtype=torch.float32) - low) / width).clamp(0, 1)
        return inv_freq / self.factor * slow + inv_freq * (1 - slow)

    def _pair_of(self, num_turns: float, num_pairs: int, theta: float) -> float:
        """Which pair makes so many turns in the original length, as a fraction."""
        wavelength = self.original_max_len / num_turns
        return num_pairs * math.log(wavelength / (2 * math.pi)) / math.log(theta)

    @staticmethod
    def magnitude_of(factor: float, weight: float = 1.0) -> float:
        """The paper's recommendation."""
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


@dataclass(frozen=True, slots=True)
class DynamicScaling:
    """Up to `original_max_len` nothing is scaled; beyond it, the base grows with the length.

    Source: NTK-aware scaling with the length of the sequence (bloc97 and emozilla 2023), as
    transformers computes it (`_compute_dynamic_ntk_parameters`), in float32.
    """

    factor: float
    original_max_len: int
    magnitude: float = 1.0

    def __call__(self, inv_freq: Tensor, theta: float) -> Tensor:
        """Those up to the original length."""
        del theta
        return inv_freq

    def at_lengths(self, lengths: Tensor, inv_freq: Tensor, theta: float) -> Tensor:
        """float32 [num_tokens, num_pairs] for the sequence lengths, int64 [num_tokens]."""
        dim = 2 * len(inv_freq)
        stretch = self.factor * lengths[:, None] / self.original_max_len - (self.factor - 1)
        exponents = torch.arange(0, dim, 2, device=lengths.device).float() / dim
        scaled = 1.0 / (theta * stretch ** (dim / (dim - 2))) ** exponents
        return torch.where(lengths[:, None] > self.original_max_len, scaled, inv_freq)


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary position embedding: pair i of a head's first `dim` dimensions turns by
    position * theta ** (-2i / dim), scaled; `interleaved` pairs are (2i, 2i + 1), others (i, i + dim / 2)."""

    dim: int
    theta: float
    scaling: Scaling | None = None
    interleaved: bool = False

    def inverse_frequencies(self) -> Tensor:
        """float32 [dim / 2], radians a token."""
        inv_freq = 1.0 / self.theta ** (torch.arange(0, self.dim, 2, dtype=torch.int64).float() / self.dim)
        return inv_freq if self.scaling is None else self.scaling(inv_freq, self.theta)

    @property
    def magnitude(self) -> float:
        return 1.0 if self.scaling is None else self.scaling.magnitude

    @property
    def length_bound(self) -> int | None:
        """The length in tokens beyond which rotations depend on the length, too; None if they never do."""
        return self.scaling.original_max_len if isinstance(self.scaling, DynamicScaling) else None

    def inverse_frequencies_at(self, lengths: Tensor, inv_freq: Tensor) -> Tensor:
        """float32 [num_tokens, dim / 2] of tokens that are rotated for these lengths, int64 [num_tokens].

        inv_freq: what `inverse_frequencies` says, on the device of `lengths`.
        """
        if not isinstance(self.scaling, DynamicScaling):
            return inv_freq.expand(len(lengths), -1)
        return self.scaling.at_lengths(lengths, inv_freq, self.theta)


def angles(positions: Tensor, inv_freq: Tensor, magnitude: float = 1.0) -> tuple[Tensor, Tensor]:
    """cos and sin times `magnitude`, float32 [num_tokens, dim / 2], of int64 positions [num_tokens].

    inv_freq: [dim / 2], or [num_tokens, dim / 2] where tokens turn differently.
    """
    turned = positions[:, None].float() * inv_freq
    cos, sin = turned.cos(), turned.sin()
    return (cos, sin) if magnitude == 1 else (cos.mul_(magnitude), sin.mul_(magnitude))
