"""The decoder that the families share: pre-norm attention and gated MLP over one residual stream.

A family is an `Architecture` (its facts) and a table of tensor names. Knows nothing of checkpoints,
slots or sampling, nor how its operators are implemented.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from gllm.kernels.dispatch import Operators, Product
from gllm.worker.batch import Batch
from gllm.worker.layers import Embedding, GatedMlp, SparseMlp
from gllm.worker.models.architecture import Architecture
from gllm.worker.rotary import angles

Pages = Sequence[tuple[Tensor, Tensor]]  # keys and values of each layer
Hidden = tuple[Tensor, Tensor]  # the last layer's output and the residual stream, [num_tokens, size] each
CosSin = tuple[Tensor, Tensor]
Parameters = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Layer:
    """The parameters of one block; norms that the family does not have are none."""

    attention_norm: Tensor
    qkv_proj: Product
    q_norm: Tensor | None
    k_norm: Tensor | None
    o_proj: Product
    attention_post_norm: Tensor | None
    mlp_norm: Tensor
    mlp: GatedMlp | SparseMlp
    mlp_post_norm: Tensor | None


class Decoder:
    """The forward pass of one architecture with its parameters, which it takes out of the given ones."""

    def __init__(self, facts: Architecture, parameters: Parameters, operators: Operators) -> None:
        self.facts = facts
        self.operators = operators
        self.embed = Embedding(parameters["embed.weight"])
        self.layers = [_layer(facts, parameters, f"layers.{n}.", operators) for n in range(facts.num_layers)]
        self.norm = parameters["norm.weight"]
        self.lm_head = operators.linear(
            parameters["embed.weight"] if facts.tied else parameters.pop("lm_head.weight")
        )
        self.inv_freq = facts.rotary.inverse_frequencies().to(self.norm.device)

    def hidden(self, batch: Batch, pages: Pages) -> Hidden:
        """What stands behind the last layer, of every token of the batch; writes all rows' KV.

        pages: of each layer keys and values, [num_pages, page_size, num_kv_heads, head_dim].
        """
        return self.through_layers(self.embedded(batch), self.angles(batch), batch, pages)

    def embedded(self, batch: Batch) -> Tensor:
        """The residual stream before the first layer, [num_tokens, size]."""
        return self.embed(batch.token_ids).to(self.norm.dtype)

    def through_layers(self, residual: Tensor, cos_sin: CosSin, batch: Batch, pages: Pages) -> Hidden:
        """`hidden` of tokens that are embedded and whose angles are known. Changes `residual`."""
        rms_norm, add_rms_norm = self.operators.rms_norm, self.operators.add_rms_norm
        eps = self.facts.norm_eps
        x = rms_norm(residual, self.layers[0].attention_norm, eps)
        for n, layer in enumerate(self.layers):
            if n:
                x, residual = add_rms_norm(x, residual, layer.attention_norm, eps)
            x = layer.o_proj(self._attend(layer, layer.qkv_proj(x), pages[n], cos_sin, batch))
            if layer.attention_post_norm is not None:
                x = rms_norm(x, layer.attention_post_norm, eps)
            x, residual = add_rms_norm(x, residual, layer.mlp_norm, eps)
            x = layer.mlp(x)
            if layer.mlp_post_norm is not None:
                x = rms_norm(x, layer.mlp_post_norm, eps)
        return x, residual

    def read_out(self, hidden: Hidden, tokens: Tensor | None = None) -> Tensor:
        """float32 logits [len(tokens), vocab] behind these of the batch's tokens, int64, or behind all."""
        return self.read_out_narrow(hidden, tokens).float()

    def read_out_narrow(self, hidden: Hidden, tokens: Tensor | None = None) -> Tensor:
        """The same in the dtype of the activations, as they are computed."""
        x, residual = hidden if tokens is None else (hidden[0][tokens], hidden[1][tokens])
        return self.lm_head(self.operators.add_rms_norm(x, residual, self.norm, self.facts.norm_eps)[0])

    def angles(self, batch: Batch) -> CosSin:
        """cos and sin of the batch's tokens, float32 [num_tokens, rotated dims / 2]."""
        rotary, inv_freq = self.facts.rotary, self.inv_freq
        if batch.rotary_lengths is not None:
            inv_freq = rotary.inverse_frequencies_at(batch.rotary_lengths, inv_freq)
        return angles(batch.positions, inv_freq, rotary.magnitude)

    def _attend(
        self,
        layer: Layer,
        qkv: Tensor,
        pages: tuple[Tensor, Tensor],
        cos_sin: CosSin,
        batch: Batch,
    ) -> Tensor:
        """[num_tokens, heads * head_dim] from the projected [num_tokens, (heads + 2 kv heads) * head_dim]."""
        facts, operators = self.facts, self.operators
        qkv = qkv.view(len(qkv), -1, facts.head_dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            operators.norm_heads(qkv, layer.q_norm, layer.k_norm, facts.norm_eps, num_heads=facts.num_heads)
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


def _layer(facts: Architecture, parameters: Parameters, prefix: str, operators: Operators) -> Layer:
    def of(name: str) -> Parameters:
        # Taken out, so that a weight is gone when it has been put in another form.
        kinds = ("weight", "bias", "scale")
        given = {kind: parameters.pop(f"{prefix}{name}.{kind}", None) for kind in kinds}
        return {kind: parameter for kind, parameter in given.items() if parameter is not None}

    def norm(name: str) -> Tensor | None:
        return parameters.get(f"{prefix}{name}.weight")

    mlp: GatedMlp | SparseMlp
    if facts.experts is None:
        mlp = GatedMlp(operators.gated_linear(**of("gate_up_proj")), operators.linear(**of("down_proj")))
    else:
        count = facts.experts.num_experts
        mlp = SparseMlp(
            router=operators.linear(**of("router")),
            gate_up=parameters[f"{prefix}gate_up_proj.weight"].view(count, -1, facts.hidden_size),
            down=parameters[f"{prefix}down_proj.weight"].view(count, facts.hidden_size, -1),
            top_k=facts.experts.top_k,
            renormalise=facts.experts.renormalise,
            operators=operators,
        )
    return Layer(
        attention_norm=parameters[f"{prefix}attention_norm.weight"],
        qkv_proj=operators.linear(**of("qkv_proj")),
        q_norm=norm("q_norm"),
        k_norm=norm("k_norm"),
        o_proj=operators.linear(**of("o_proj")),
        attention_post_norm=norm("attention_post_norm"),
        mlp_norm=parameters[f"{prefix}mlp_norm.weight"],
        mlp=mlp,
        mlp_post_norm=norm("mlp_post_norm"),
    )
