"""ChatGLM2, ChatGLM3 and GLM-4 in their original layout (`ChatGLMModel`, with code of the checkpoint's own).

The same decoder as `glm.py` under other names: queries, keys and values in one tensor, few key heads, and
a rotary base of 10000 * rope_ratio. None of the checkpoint's code is run.
"""

from typing import Any

from gllm.checkpoint import CheckpointError, read_float, read_int
from gllm.worker.models.architecture import Architecture
from gllm.worker.models.reading import require_groups, rotary_dim
from gllm.worker.rotary import Rotary
from gllm.worker.weights import TensorNames

NAMES = TensorNames(
    outer={
        "transformer.embedding.word_embeddings": "embed",
        "transformer.encoder.final_layernorm": "norm",
        "transformer.output_layer": "lm_head",
    },
    layer_prefix="transformer.encoder.layers.{}.",
    layer={
        "input_layernorm": ("attention_norm", ""),
        "self_attention.query_key_value": ("qkv_proj", ""),
        "self_attention.dense": ("o_proj", ""),
        "post_attention_layernorm": ("mlp_norm", ""),
        "mlp.dense_h_to_4h": ("gate_up_proj", ""),
        "mlp.dense_4h_to_h": ("down_proj", ""),
    },
)

# What the layout can say, and the one value that is computed here. Without multi_query_attention the rows
# of query_key_value are interleaved head by head, which no published checkpoint uses.
SUPPORTED = {
    "multi_query_attention": True,
    "rmsnorm": True,
    "post_layer_norm": True,
    "apply_residual_connection_post_layernorm": False,
    "rope_scaling": False,
    "position_encoding_2d": False,  # the first ChatGLM-6B
}
BASE = 10000.0


def read(config: dict[str, Any]) -> Architecture:
    """The facts from config.json; raises `CheckpointError` for variants that were never published."""
    for key, supported in SUPPORTED.items():
        if bool(config.get(key, supported)) != supported:
            raise CheckpointError(
                f"config.json: {key} is {config[key]!r:.80}, but only {supported} is supported"
            )
    if config.get("quantization_bit"):
        raise CheckpointError(
            f"the checkpoint is quantised (quantization_bit is {config['quantization_bit']!r:.80}), but only "
            f"float32, bfloat16 and float16 weights can be loaded: give the unquantised checkpoint"
        )
    hidden_size, num_heads = read_int(config, "hidden_size"), read_int(config, "num_attention_heads")
    num_kv_heads = read_int(config, "multi_query_group_num")
    require_groups(num_heads, num_kv_heads, "multi_query_group_num")
    head_dim = read_int(config, "kv_channels", default=hidden_size // num_heads)
    linear_bias = bool(config.get("add_bias_linear", False))
    return Architecture(
        num_layers=read_int(config, "num_layers", "num_hidden_layers"),
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=read_int(config, "ffn_hidden_size"),
        vocab_size=read_int(config, "padded_vocab_size", "vocab_size"),
        norm_eps=read_float(config, "layernorm_epsilon", 1e-5),
        rotary=Rotary(
            dim=rotary_dim(head_dim, 0.5),
            theta=BASE * read_float(config, "rope_ratio", 1.0),
            interleaved=bool(config.get("original_rope", True)),
        ),
        qkv_bias=bool(config.get("add_qkv_bias", False)) or linear_bias,
        o_bias=linear_bias,
        mlp_bias=linear_bias,
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def caveats(config: dict[str, Any], facts: Architecture) -> tuple[str, ...]:
    """`rope_ratio` meant something else in chatglm2-6b-32k, whose config.json has the same keys."""
    ratio = facts.rotary.theta / BASE
    if facts.vocab_size != 65024 or ratio in (1, 50):  # chatglm3-6b-32k has 50
        return ()
    return (
        f"rope_ratio {config.get('rope_ratio')} multiplies the rotary base, as in ChatGLM3 and GLM-4; "
        f"chatglm2-6b-32k divides positions by it instead, and is not supported",
    )
