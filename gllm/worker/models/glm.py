"""GLM-4 in Hugging Face layout, and the GLM-4 of 0414 (`Glm4ForCausalLM`) with two more norms a layer.

Llama with biases on queries, keys and values, gate and up in one tensor, and a rotation of interleaved
pairs in the first half of each head.
"""

import dataclasses
from typing import Any

from gllm.worker.models import llama
from gllm.worker.models.architecture import Architecture
from gllm.worker.models.reading import read_common

NAMES = llama.NAMES.extended(
    {"mlp.gate_up_proj": ("gate_up_proj", "")}, without=("mlp.gate_proj", "mlp.up_proj")
)
NAMES_0414 = NAMES.extended(
    {
        "post_self_attn_layernorm": ("attention_post_norm", ""),
        "post_mlp_layernorm": ("mlp_post_norm", ""),
    }
)

CHAT_LAYERS, CHAT_CONTEXT, CHAT_THETA = 40, 131072, 5e6


def read(config: dict[str, Any]) -> Architecture:
    """GLM's facts from config.json."""
    common = read_common(config, head_dim=128, partial_rotary_factor=0.5, rms_norm_eps=1.5625e-07)
    common["rotary"] = dataclasses.replace(common["rotary"], interleaved=True)
    return Architecture(**common, qkv_bias=bool(config.get("attention_bias", True)))


def read_0414(config: dict[str, Any]) -> Architecture:
    """The facts of GLM-4-0414 from config.json."""
    return dataclasses.replace(read(config), post_norms=True)


def caveats(config: dict[str, Any], facts: Architecture) -> tuple[str, ...]:
    """The two published layouts of glm-4-9b-chat contradict each other; config.json is obeyed."""
    chat = facts.num_layers == CHAT_LAYERS and config.get("max_position_embeddings") == CHAT_CONTEXT
    if not chat or facts.rotary.theta != 10000:
        return ()
    return (
        f"config.json gives rope_theta 10000, but the original layout of glm-4-9b-chat says rope_ratio 500, "
        f"a base of {CHAT_THETA:g}: if long answers go astray, try --rope-theta {CHAT_THETA:g}",
    )
