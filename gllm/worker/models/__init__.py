"""Model families: each a small file that says how it differs from the shared decoder."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gllm.checkpoint import Checkpoint, CheckpointError
from gllm.kernels.dispatch import Operators
from gllm.worker.models import chatglm, glm, llama, mistral, mixtral, qwen2, qwen3, qwen3_moe
from gllm.worker.models.architecture import Architecture, Shapes
from gllm.worker.models.decoder import Decoder
from gllm.worker.quantization import scale_shapes
from gllm.worker.staging import Staging
from gllm.worker.weights import (
    Place,
    TensorNames,
    allocate,
    check_tensors,
    fill_random,
    load_weights,
    place_tensors,
    stored_dtypes,
)

Config = dict[str, Any]


def _no_caveats(config: Config, facts: Architecture) -> tuple[str, ...]:
    del config, facts
    return ()


@dataclass(frozen=True, slots=True)
class Family:
    """How one family is read from a checkpoint.

    caveats: sentences on what may be wrong with a checkpoint although it can be computed as it says.
    """

    read: Callable[[Config], Architecture]  # of config.json; raises CheckpointError
    names: TensorNames
    caveats: Callable[[Config, Architecture], tuple[str, ...]] = _no_caveats


FAMILIES = {
    "ChatGLMForConditionalGeneration": Family(chatglm.read, chatglm.NAMES, chatglm.caveats),
    "ChatGLMModel": Family(chatglm.read, chatglm.NAMES, chatglm.caveats),
    "Glm4ForCausalLM": Family(glm.read_0414, glm.NAMES_0414),
    "GlmForCausalLM": Family(glm.read, glm.NAMES, glm.caveats),
    "LlamaForCausalLM": Family(llama.read, llama.NAMES),
    "MistralForCausalLM": Family(mistral.read, mistral.NAMES),
    "MixtralForCausalLM": Family(mixtral.read, mixtral.NAMES),
    "Qwen2ForCausalLM": Family(qwen2.read, qwen2.NAMES),
    "Qwen3ForCausalLM": Family(qwen3.read, qwen3.NAMES),
    "Qwen3MoeForCausalLM": Family(qwen3_moe.read, qwen3_moe.NAMES),
}


def family_of(architecture: str) -> Family:
    """The family of a checkpoint's architecture; raises `CheckpointError` for one that is not known."""
    if architecture not in FAMILIES:
        raise CheckpointError(
            f"the architecture {architecture!r} is not known: give a checkpoint of one of "
            f"{', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[architecture]


def read_architecture(checkpoint: Checkpoint, rope_theta: float | None = None) -> Architecture:
    """The facts that config.json states, with another rotary base if one is given."""
    facts = family_of(checkpoint.architecture).read(checkpoint.config)
    if rope_theta is not None:
        facts = dataclasses.replace(facts, rotary=dataclasses.replace(facts.rotary, theta=rope_theta))
    return facts


def caveats(checkpoint: Checkpoint, facts: Architecture) -> list[str]:
    """What whoever serves this checkpoint should know, in sentences."""
    found = list(family_of(checkpoint.architecture).caveats(checkpoint.config, facts))
    if facts.window is not None and facts.window < checkpoint.max_model_len:
        found.append(
            f"sequences are held to {facts.window} of {checkpoint.max_model_len} tokens: this model attends "
            f"through a sliding window, which hides nothing up to that length and is not supported beyond it"
        )
    return found


def longest_context(checkpoint: Checkpoint, facts: Architecture) -> int:
    """The longest sequence in tokens that is computed as the checkpoint means it."""
    return min(checkpoint.max_model_len, facts.window or checkpoint.max_model_len)


def check_weights(checkpoint: Checkpoint, facts: Architecture) -> dict[str, Place]:
    """Where each tensor goes; raises `CheckpointError` unless all are there, and nothing else. Reads none."""
    shapes = facts.parameter_shapes()
    names = family_of(checkpoint.architecture).names
    places = place_tensors(names, facts.num_layers, shapes, facts.row_ranges())
    check_tensors(checkpoint, places, shapes, spare=names.output_names() if facts.tied else ())
    return places


def kept_parameters(
    checkpoint: Checkpoint,
    facts: Architecture,
    dtype: torch.dtype,
    operators: Operators,
    *,
    dummy: bool,
    quantized: bool = False,
) -> tuple[Shapes, dict[str, torch.dtype]]:
    """Shapes and dtypes of all that is kept: `dtype`, but a matrix of products in what it is stored in, if
    shorter and the operators widen it as they read it. That changes no result, only what memory is read.

    quantized: the matrices of the layers become int8, with their scales beside them. The embedding and the
    output matrix stay, since what is wrong with them shows in the logits directly.
    """
    shapes = facts.parameter_shapes()
    stored = {} if dummy else stored_dtypes(checkpoint, check_weights(checkpoint, facts))
    dtypes = {}
    for name, shape in shapes.items():
        kept = stored.get(name, dtype)
        is_shorter = kept.itemsize < dtype.itemsize and kept in operators.FORMATS.weights
        is_product = len(shape) == 2 and name != "embed.weight" and not facts.is_of_experts(name)
        is_between = len(shape) == 1  # products: a norm's weight, a bias
        dtypes[name] = kept if is_shorter and is_product else dtype
        if is_between and operators.FORMATS.activations is not None:
            dtypes[name] = operators.FORMATS.activations
        if quantized and is_product and name != "lm_head.weight":
            dtypes[name] = torch.int8
    scales = scale_shapes(shapes, dtypes)
    return shapes | scales, dtypes | dict.fromkeys(scales, torch.float32)


def load_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    operators: Operators,
    *,
    facts: Architecture | None = None,
    dummy: bool = False,
    quantized: bool = False,
    staging: Staging | None = None,
) -> Decoder:
    """The checkpoint's model, computing in `dtype`; raises `CheckpointError`.

    facts: as `read_architecture` gives them, which is asked without. dummy: random weights, none is read.
    quantized: as `kept_parameters` takes it. staging: how weights get to a device that is not the host.
    """
    facts = facts or read_architecture(checkpoint)
    kept = kept_parameters(checkpoint, facts, dtype, operators, dummy=dummy, quantized=quantized)
    parameters = allocate(*kept, device)
    if dummy:
        fill_random(parameters)
        return Decoder(facts, parameters, operators)
    places = check_weights(checkpoint, facts)
    load_weights(checkpoint, places, parameters, staging)
    return Decoder(facts, parameters, operators)
