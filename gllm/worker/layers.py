"""The pieces of a decoder that hold parameters.

Knows nothing of families, checkpoints or pages, nor how the operators are implemented.
"""

from dataclasses import dataclass

from torch import Tensor

from gllm.kernels.dispatch import Operators, Product


@dataclass(frozen=True, slots=True)
class Embedding:
    """Rows of weight [vocab, size] by token id."""

    weight: Tensor

    def __call__(self, token_ids: Tensor) -> Tensor:
        return self.weight.index_select(0, token_ids)


@dataclass(frozen=True, slots=True)
class GatedMlp:
    """down(silu(gate(x)) * up(x)); gate and up are one matrix. Source: Shazeer 2020 (SwiGLU)."""

    gate_up: Product  # `gated_linear`
    down: Product

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self.gate_up(x))


@dataclass(frozen=True, slots=True)
class SparseMlp:
    """A mixture of gated MLPs: each token goes through the `top_k` experts that its router likes best.

    router: [experts, hidden]; gate_up: [experts, 2 * size, hidden]; down: [experts, hidden, size].
    renormalise: the chosen experts' probabilities are scaled to sum to 1. Source: Shazeer et al. 2017.
    """

    router: Product
    gate_up: Tensor
    down: Tensor
    top_k: int
    renormalise: bool
    operators: Operators

    def __call__(self, x: Tensor) -> Tensor:
        likely, chosen = self.router(x).float().softmax(-1).topk(self.top_k, dim=-1)
        if self.renormalise:
            likely = likely / likely.sum(-1, keepdim=True)
        return self.operators.mix_experts(x, self.gate_up, self.down, chosen, likely)
