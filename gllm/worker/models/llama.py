"""Llama 2, 3, 3.1, 3.2 and their kin: the decoder as it is."""

from typing import Any

from gllm.worker.models.architecture import Architecture
from gllm.worker.models.reading import read_common
from gllm.worker.weights import TensorNames

NAMES = TensorNames(
    outer={"model.embed_tokens": "embed", "model.norm": "norm", "lm_head": "lm_head"},
    layer_prefix="model.layers.{}.",
    layer={
        "input_layernorm": ("attention_norm", ""),
        "self_attn.q_proj": ("qkv_proj", "q"),
        "self_attn.k_proj": ("qkv_proj", "k"),
        "self_attn.v_proj": ("qkv_proj", "v"),
        "self_attn.o_proj": ("o_proj", ""),
        "post_attention_layernorm": ("mlp_norm", ""),
        "mlp.gate_proj": ("gate_up_proj", "gate"),
        "mlp.up_proj": ("gate_up_proj", "up"),
        "mlp.down_proj": ("down_proj", ""),
    },
)


def read(config: dict[str, Any]) -> Architecture:
    """Llama's facts from config.json."""
    attention_bias = bool(config.get("attention_bias", False))
    return Architecture(
        **read_common(config),
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
    )
