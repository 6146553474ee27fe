"""Qwen3's mixtures of experts (30B-A3B, 235B-A22B): Qwen3 with experts in place of the MLP."""

import dataclasses
from typing import Any

from gllm.checkpoint import CheckpointError, read_int
from gllm.worker.models import qwen3
from gllm.worker.models.architecture import Architecture
from gllm.worker.models.mixtral import read_experts

NAMES = qwen3.NAMES.extended(
    {"mlp.gate": ("router", "")},
    without=("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    expert_prefix="mlp.experts.{}.",
    expert={
        "gate_proj": ("gate_up_proj", "gate"),
        "up_proj": ("gate_up_proj", "up"),
        "down_proj": ("down_proj", "down"),
    },
)


def read(config: dict[str, Any]) -> Architecture:
    """The facts from config.json; raises `CheckpointError` where some layers have no experts."""
    if config.get("mlp_only_layers") or read_int(config, "decoder_sparse_step", default=1) != 1:
        raise CheckpointError(
            "config.json: mlp_only_layers or decoder_sparse_step leave some layers without experts, but only "
            "models with experts in every layer are supported"
        )
    size = read_int(config, "moe_intermediate_size")
    experts = read_experts(config, size, renormalise=bool(config.get("norm_topk_prob", False)))
    return dataclasses.replace(qwen3.read({"intermediate_size": size, **config}), experts=experts)
