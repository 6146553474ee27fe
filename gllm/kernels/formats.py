"""Which number formats a backend computes with: what loading and the plan of memory ask of it.

Knows no backend: each exports its own record as FORMATS.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Formats:
    """By default those of torch's own products, which take everything as it lies.

    weights: those in which `linear` and `gated_linear` take a weight, beside the activations' own.
    packed_itemsize: bytes of an element of a step's rows, keys and values in the form that products and
        attention bring them into; 0 where they are taken as they lie. Such products pack weights, too.
    activations: what products give and take, and norms' weights; none: the dtype of weights.
    """

    weights: tuple[torch.dtype, ...] = ()
    packed_itemsize: int = 0
    activations: torch.dtype | None = None


PLAIN = Formats()
