"""Model families: each a small file that says how it differs from the shared decoder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gllm.checkpoint import Checkpoint, CheckpointError
from gllm.kernels.dispatch import Operators
from gllm.worker.models import llama, qwen2
from gllm.worker.models.decoder import Architecture, Decoder
from gllm.worker.weights import TensorNames, allocate, load_weights, place_tensors


@dataclass(frozen=True, slots=True)
class Family:
    """How one family is read from a checkpoint."""

    read: Callable[[dict[str, Any]], Architecture]  # of config.json; raises CheckpointError
    names: TensorNames


FAMILIES = {
    "LlamaForCausalLM": Family(llama.read, llama.NAMES),
    "Qwen2ForCausalLM": Family(qwen2.read, qwen2.NAMES),
}


def family_of(architecture: str) -> Family:
    """The family of a checkpoint's architecture; raises `CheckpointError` for one that is not known."""
    if architecture not in FAMILIES:
        raise CheckpointError(
            f"the architecture {architecture!r} is not known: give a checkpoint of one of "
            f"{', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[architecture]


def load_model(
    checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, operators: Operators
) -> Decoder:
    """The checkpoint's model with its weights in `dtype`; raises `CheckpointError`."""
    family = family_of(checkpoint.architecture)
    facts = family.read(checkpoint.config)
    shapes = facts.parameter_shapes()
    parameters = allocate(shapes, dtype, device)
    places = place_tensors(family.names, facts.num_layers, shapes, facts.row_ranges())
    load_weights(checkpoint, places, parameters, facts.tied)
    return Decoder(facts, parameters, operators)
