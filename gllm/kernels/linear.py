"""Products with a weight as torch computes them: the plain form of what a backend may do better."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PlainLinear:
    """x @ weight.T + bias. weight: [out, in]; bias: [out] or none."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def plain_linear(weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> PlainLinear:
    """See `reference.linear`: a weight with scales is widened here, once."""
    return PlainLinear(weight if scale is None else weight * scale[:, None], bias)


@dataclass(frozen=True, slots=True)
class PlainGatedLinear:
    """silu of the first half of the outputs times the second half."""

    linear: Callable[[Tensor], Tensor]
    silu_mul: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.silu_mul(self.linear(x))
