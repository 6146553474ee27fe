"""The decoder that the families share: pre-norm attention and gated MLP over one residual stream.

A family is an `Architecture` (its facts) and a table of tensor names. Knows nothing of checkpoints,
slots or sampling, nor how its operators are implemented.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gllm.checkpoint import CheckpointError, read_float, read_int, rope_block
from gllm.kernels.dispatch import Operators
from gllm.worker.batch import Batch
from gllm.worker.layers import Embedding, Linear, LinearScaling, Llama3Scaling, Rotary, angles

Pages = Sequence[tuple[Tensor, Tensor]]  # keys and values of each layer


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

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter with its shape; matrices are [out, in]."""
        q_size, kv_size = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        hidden = self.hidden_size
        linears = {
            "qkv_proj": (q_size + 2 * kv_size, hidden, self.qkv_bias),
            "o_proj": (hidden, q_size, self.o_bias),
            "gate_up_proj": (2 * self.intermediate_size, hidden, self.mlp_bias),
            "down_proj": (hidden, self.intermediate_size, self.mlp_bias),
        }
        shapes: dict[str, tuple[int, ...]] = {"embed.weight": (self.vocab_size, hidden)}
        for layer in range(self.num_layers):
            for name, (out, size, bias) in linears.items():
                shapes[f"layers.{layer}.{name}.weight"] = (out, size)
                if bias:
                    shapes[f"layers.{layer}.{name}.bias"] = (out,)
            shapes[f"layers.{layer}.attention_norm.weight"] = (hidden,)
            shapes[f"layers.{layer}.mlp_norm.weight"] = (hidden,)
        shapes["norm.weight"] = (hidden,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocab_size, hidden)
        return shapes

    def row_ranges(self) -> dict[str, tuple[int, int]]:
        """Where each part of a fused parameter lies, as rows [start, end)."""
        q_end = self.num_heads * self.head_dim
        k_end = q_end + self.num_kv_heads * self.head_dim
        v_end = k_end + self.num_kv_heads * self.head_dim
        size = self.intermediate_size
        return {
            "q": (0, q_end),
            "k": (q_end, k_end),
            "v": (k_end, v_end),
            "gate": (0, size),
            "up": (size, 2 * size),
        }

    def kv_elements_per_token(self) -> int:
        """Elements of keys and values that one token keeps, over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class Layer:
    """The parameters of one block."""

    attention_norm: Tensor
    qkv_proj: Linear
    o_proj: Linear
    mlp_norm: Tensor
    gate_up_proj: Linear
    down_proj: Linear


class Decoder:
    """The forward pass of one architecture with its parameters."""

    def __init__(self, facts: Architecture, parameters: dict[str, Tensor], operators: Operators) -> None:
        def linear(name: str) -> Linear:
            return Linear(parameters[f"{name}.weight"], parameters.get(f"{name}.bias"))

        self.facts = facts
        self.operators = operators
        self.embed = Embedding(parameters["embed.weight"])
        self.layers = [
            Layer(
                attention_norm=parameters[f"layers.{n}.attention_norm.weight"],
                qkv_proj=linear(f"layers.{n}.qkv_proj"),
                o_proj=linear(f"layers.{n}.o_proj"),
                mlp_norm=parameters[f"layers.{n}.mlp_norm.weight"],
                gate_up_proj=linear(f"layers.{n}.gate_up_proj"),
                down_proj=linear(f"layers.{n}.down_proj"),
            )
            for n in range(facts.num_layers)
        ]
        self.norm = parameters["norm.weight"]
        self.lm_head = Linear(parameters["embed.weight" if facts.tied else "lm_head.weight"])
        self.inv_freq = facts.rotary.inverse_frequencies().to(self.norm.device)

    def __call__(self, batch: Batch, pages: Pages) -> Tensor:
        """float32 logits [num_sampling, vocab] of the rows that yield a token; writes all rows' KV.

        pages: of each layer keys and values, [num_pages, page_size, num_kv_heads, head_dim].
        """
        add_rms_norm, eps = self.operators.add_rms_norm, self.facts.norm_eps
        cos_sin = angles(batch.positions, self.inv_freq)
        residual = self.embed(batch.token_ids)
        x = self.operators.rms_norm(residual, self.layers[0].attention_norm, eps)
        for n, layer in enumerate(self.layers):
            if n:
                x, residual = add_rms_norm(x, residual, layer.attention_norm, eps)
            x = layer.o_proj(self._attend(layer.qkv_proj(x), pages[n], cos_sin, batch))
            x, residual = add_rms_norm(x, residual, layer.mlp_norm, eps)
            x = layer.down_proj(self.operators.silu_mul(layer.gate_up_proj(x)))
        # Only the last token of a row that reached its end is read out: a chunk's others need no logits.
        x, residual = x[batch.sampling_tokens], residual[batch.sampling_tokens]
        return self.lm_head(add_rms_norm(x, residual, self.norm, eps)[0]).float()

    def _attend(
        self, qkv: Tensor, pages: tuple[Tensor, Tensor], cos_sin: tuple[Tensor, Tensor], batch: Batch
    ) -> Tensor:
        """[num_tokens, heads * head_dim] from the projected [num_tokens, (heads + 2 kv heads) * head_dim]."""
        facts, operators = self.facts, self.operators
        qkv = qkv.view(len(qkv), -1, facts.head_dim)
        # All rows' keys and values are written before any row attends: rows may share a page.
        q = operators.rotary_write(
            qkv, *cos_sin, *pages, batch.locations, interleaved=facts.rotary.interleaved
        )
        attended = operators.paged_attention(
            q,
            *pages,
            batch.page_table,
            batch.num_computed,
            batch.query_start,
            scale=facts.head_dim**-0.5,
            groups=batch.groups,
        )
        return attended.flatten(1)


# ---- reading config.json ----------------------------------------------------------------------


def read_common(config: dict[str, Any]) -> dict[str, Any]:
    """What every family in Hugging Face layout says in the same words, as arguments of `Architecture`."""
    act = config.get("hidden_act", "silu")
    if act != "silu":
        raise CheckpointError(f"config.json: hidden_act is {act!r:.80}, but only 'silu' is known")
    hidden_size = read_int(config, "hidden_size")
    num_heads = read_int(config, "num_attention_heads")
    num_kv_heads = read_int(config, "num_key_value_heads", default=num_heads)
    if num_heads % num_kv_heads:
        raise CheckpointError(
            f"config.json: num_attention_heads is {num_heads}, expected a multiple of num_key_value_heads "
            f"{num_kv_heads}"
        )
    head_dim = read_int(config, "head_dim", default=hidden_size // num_heads)
    return {
        "num_layers": read_int(config, "num_hidden_layers"),
        "hidden_size": hidden_size,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "intermediate_size": read_int(config, "intermediate_size"),
        "vocab_size": read_int(config, "vocab_size"),
        "norm_eps": read_float(config, "rms_norm_eps", 1e-6),
        "rotary": read_rotary(config, head_dim),
        "tied": bool(config.get("tie_word_embeddings", False)),
    }


def read_rotary(config: dict[str, Any], head_dim: int, interleaved: bool = False) -> Rotary:
    """The rotary embedding that config.json describes; raises `CheckpointError` for an unknown scaling."""
    block = rope_block(config)
    dim = int(head_dim * read_float(block, "partial_rotary_factor", 1.0))
    if dim % 2 or not 0 < dim <= head_dim:
        raise CheckpointError(
            f"config.json: {dim} of {head_dim} dimensions of a head would rotate, expected pairs"
        )
    kind = block["rope_type"]
    scaling: LinearScaling | Llama3Scaling | None = None
    if kind == "linear":
        scaling = LinearScaling(read_float(block, "factor"))
    elif kind == "llama3":
        scaling = Llama3Scaling(
            factor=read_float(block, "factor"),
            low_freq_factor=read_float(block, "low_freq_factor"),
            high_freq_factor=read_float(block, "high_freq_factor"),
            original_max_len=read_int(block, "original_max_position_embeddings"),
        )
        if scaling.high_freq_factor <= scaling.low_freq_factor:
            raise CheckpointError(
                f"config.json: high_freq_factor is {scaling.high_freq_factor}, expected more than "
                f"low_freq_factor {scaling.low_freq_factor}"
            )
    elif kind != "default":
        raise CheckpointError(
            f"config.json: the rope scaling type is {kind!r:.80}, but only 'default', 'linear' and 'llama3' "
            f"are known: give a checkpoint without it, or remove it to serve the original length"
        )
    return Rotary(dim, read_float(block, "rope_theta", 10000.0), scaling, interleaved)
