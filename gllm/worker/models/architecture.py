"""The facts of one decoder, and the parameters that follow from them.

Knows neither config.json nor checkpoints, and computes nothing.
"""

import math
from dataclasses import dataclass

from gllm.worker.rotary import Rotary

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Experts:
    """The mixture of experts that stands in place of every layer's MLP."""

    num_experts: int
    top_k: int  # experts that a token goes through
    intermediate_size: int  # of one expert
    renormalise: bool  # the chosen ones' probabilities are made to sum to 1


@dataclass(frozen=True, slots=True)
class Architecture:
    """The facts of one decoder. Sizes are numbers of elements."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    norm_eps: float
    rotary: Rotary
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False  # the embedding is the output matrix too
    head_norms: bool = False  # each head of queries and keys is normed before it is rotated
    post_norms: bool = False  # what attention and MLP add to the residual stream is normed, too
    experts: Experts | None = None
    window: int | None = None  # some layers attend to so many tokens only

    def parameter_shapes(self) -> Shapes:
        """Every parameter with its shape; matrices are [out, in], those of experts stacked by rows."""
        shapes: Shapes = {"embed.weight": (self.vocab_size, self.hidden_size)}
        for layer in range(self.num_layers):
            shapes |= {f"layers.{layer}.{name}": shape for name, shape in self._layer_shapes().items()}
        shapes["norm.weight"] = (self.hidden_size,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocab_size, self.hidden_size)
        return shapes

    def _layer_shapes(self) -> Shapes:
        hidden, q_size = self.hidden_size, self.num_heads * self.head_dim
        kv_size = self.num_kv_heads * self.head_dim
        linears = {
            "qkv_proj": (q_size + 2 * kv_size, hidden, self.qkv_bias),
            "o_proj": (hidden, q_size, self.o_bias),
        }
        if self.experts is None:
            size, copies = self.intermediate_size, 1
        else:
            size, copies = self.experts.intermediate_size, self.experts.num_experts
            linears["router"] = (copies, hidden, False)
        linears["gate_up_proj"] = (copies * 2 * size, hidden, self.mlp_bias)
        linears["down_proj"] = (copies * hidden, size, self.mlp_bias)
        shapes: Shapes = {}
        for name, (out, size, bias) in linears.items():
            shapes[f"{name}.weight"] = (out, size)
            if bias:
                shapes[f"{name}.bias"] = (out,)
        norms = ["attention_norm", "mlp_norm"]
        if self.post_norms:
            norms += ["attention_post_norm", "mlp_post_norm"]
        shapes |= {f"{name}.weight": (hidden,) for name in norms}
        if self.head_norms:
            shapes |= {f"{name}.weight": (self.head_dim,) for name in ("q_norm", "k_norm")}
        return shapes

    def row_ranges(self) -> dict[str, tuple[int, int]]:
        """Where each part of a fused parameter lies, as rows [start, end).

        Parts of expert number e are `e.gate`, `e.up` and `e.down`.
        """
        q_end = self.num_heads * self.head_dim
        k_end = q_end + self.num_kv_heads * self.head_dim
        v_end = k_end + self.num_kv_heads * self.head_dim
        size, hidden = self.intermediate_size, self.hidden_size
        ranges = {
            "q": (0, q_end),
            "k": (q_end, k_end),
            "v": (k_end, v_end),
            "gate": (0, size),
            "up": (size, 2 * size),
        }
        if self.experts is not None:
            size = self.experts.intermediate_size
            for e in range(self.experts.num_experts):
                ranges[f"{e}.gate"] = (2 * e * size, (2 * e + 1) * size)
                ranges[f"{e}.up"] = ((2 * e + 1) * size, (2 * e + 2) * size)
                ranges[f"{e}.down"] = (e * hidden, (e + 1) * hidden)
        return ranges

    def is_of_experts(self, parameter: str) -> bool:
        """Whether a parameter holds the matrices of all experts of a layer."""
        return self.experts is not None and parameter.endswith(("gate_up_proj.weight", "down_proj.weight"))

    def num_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.parameter_shapes().values())

    def kv_elements_per_token(self) -> int:
        """Elements of keys and values that one token keeps, over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim

    def mlp_elements(self) -> int:
        """Elements alive in the MLP at once, for one token, at most; with experts, what each made of it."""
        if self.experts is None:
            return 3 * self.intermediate_size
        return self.experts.top_k * (2 * self.experts.intermediate_size + self.hidden_size)
