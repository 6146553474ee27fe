"""Qwen3: Llama whose queries and keys are normed head by head before they are rotated."""

from typing import Any

from gllm.worker.models import llama
from gllm.worker.models.architecture import Architecture
from gllm.worker.models.reading import read_common, read_window

NAMES = llama.NAMES.extended({"self_attn.q_norm": ("q_norm", ""), "self_attn.k_norm": ("k_norm", "")})


def read(config: dict[str, Any]) -> Architecture:
    """Qwen3's facts from config.json."""
    common = read_common(config, head_dim=128)
    attention_bias = bool(config.get("attention_bias", False))
    return Architecture(
        **common,
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        head_norms=True,
        window=read_window(config, common["num_layers"]),
    )
