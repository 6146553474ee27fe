"""Mixtral: Mistral with a mixture of experts in place of the MLP."""

from typing import Any

from gllm.checkpoint import CheckpointError, read_int
from gllm.worker.models import llama
from gllm.worker.models.architecture import Architecture, Experts
from gllm.worker.models.reading import read_common

NAMES = llama.NAMES.extended(
    {"block_sparse_moe.gate": ("router", "")},
    without=("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    expert_prefix="block_sparse_moe.experts.{}.",
    expert={"w1": ("gate_up_proj", "gate"), "w3": ("gate_up_proj", "up"), "w2": ("down_proj", "down")},
)


def read(config: dict[str, Any]) -> Architecture:
    """Mixtral's facts from config.json."""
    common = read_common(config, rms_norm_eps=1e-5, rope_theta=1e6)
    window = config.get("sliding_window")
    return Architecture(
        **common,
        experts=read_experts(config, common["intermediate_size"], renormalise=True),
        window=None if window is None else read_int(config, "sliding_window"),
    )


def read_experts(config: dict[str, Any], intermediate_size: int, *, renormalise: bool) -> Experts:
    """How many experts there are, and how many of them a token goes through."""
    num_experts = read_int(config, "num_local_experts", "num_experts")
    top_k = read_int(config, "num_experts_per_tok")
    if top_k > num_experts:
        raise CheckpointError(
            f"config.json: num_experts_per_tok is {top_k}, but there are {num_experts} experts"
        )
    return Experts(num_experts, top_k, intermediate_size, renormalise)
