"""Reads what the families of Hugging Face layout say in the same words of config.json.

Raises `CheckpointError` for what this version would compute wrongly. Knows no family.
"""

from typing import Any

from gllm.checkpoint import CheckpointError, read_float, read_int, rope_block
from gllm.worker.rotary import DynamicScaling, LinearScaling, Llama3Scaling, Rotary, Scaling, YarnScaling

Config = dict[str, Any]


def read_common(config: Config, **defaults: Any) -> dict[str, Any]:
    """The arguments of `Architecture` that every family gives; `defaults` are the family's, for keys that
    its published files leave out."""
    config = defaults | {key: value for key, value in config.items() if value is not None}
    act = config.get("hidden_act", "silu")
    if act != "silu":
        raise CheckpointError(f"config.json: hidden_act is {act!r:.80}, but only 'silu' is known")
    hidden_size = read_int(config, "hidden_size")
    num_heads = read_int(config, "num_attention_heads")
    num_kv_heads = read_int(config, "num_key_value_heads", default=num_heads)
    require_groups(num_heads, num_kv_heads, "num_key_value_heads")
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


def require_groups(num_heads: int, num_kv_heads: int, name: str) -> None:
    if num_heads % num_kv_heads:
        raise CheckpointError(
            f"config.json: num_attention_heads is {num_heads}, expected a multiple of {name} {num_kv_heads}"
        )


def read_rotary(config: Config, head_dim: int, *, interleaved: bool = False) -> Rotary:
    """The rotary embedding that config.json describes; raises `CheckpointError` for an unknown scaling."""
    block = rope_block(config)
    factor = read_float(block, "partial_rotary_factor", 1.0)
    theta = read_float(block, "rope_theta", 10000.0)
    kind = block["rope_type"]
    if not isinstance(kind, str) or kind not in SCALINGS:
        known = ", ".join(repr(name) for name in SCALINGS)
        raise CheckpointError(
            f"config.json: the rope scaling type is {kind!r:.80}, but only {known} are known: give a "
            f"checkpoint without it, or remove it to serve the original length"
        )
    dim = rotary_dim(head_dim, factor)
    if kind == "dynamic" and dim == 2:
        raise CheckpointError("config.json: dynamic rope has no base for heads of which 2 dimensions rotate")
    return Rotary(dim, theta, SCALINGS[kind](block, config), interleaved)


def rotary_dim(head_dim: int, factor: float) -> int:
    """How many of a head's dimensions turn."""
    dim = int(head_dim * factor)
    if dim % 2 or not 0 < dim <= head_dim:
        raise CheckpointError(
            f"config.json: {dim} of {head_dim} dimensions of a head would rotate, expected pairs"
        )
    return dim


def read_window(config: Config, num_layers: int) -> int | None:
    """How many tokens the layers with a sliding window see, in the words of Qwen; None if all see all."""
    # Layers from max_window_layers on slide, so that the published files with 28 of 28 slide nowhere.
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        slides = "sliding_attention" in kinds
    else:
        first = read_int(config, "max_window_layers", default=num_layers, low=0)
        slides = bool(config.get("use_sliding_window", False)) and first < num_layers
    return read_int(config, "sliding_window") if slides else None


# ---- scalings ---------------------------------------------------------------------------------


def _linear(block: Config, config: Config) -> Scaling:
    del config
    return LinearScaling(read_float(block, "factor"))


def _llama3(block: Config, config: Config) -> Scaling:
    del config
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
    return scaling


def _yarn(block: Config, config: Config) -> Scaling:
    factor = read_float(block, "factor")
    if block.get("mscale") and block.get("mscale_all_dim"):
        weight, weight_of_all = read_float(block, "mscale"), read_float(block, "mscale_all_dim")
        magnitude = YarnScaling.magnitude_of(factor, weight) / YarnScaling.magnitude_of(factor, weight_of_all)
    else:
        magnitude = YarnScaling.magnitude_of(factor)
    return YarnScaling(
        factor=factor,
        original_max_len=original_max_len(block, config),
        beta_fast=read_float(block, "beta_fast", 32.0),
        beta_slow=read_float(block, "beta_slow", 1.0),
        truncate=bool(block.get("truncate", True)),
        magnitude=read_float(block, "attention_factor", magnitude),
    )


def original_max_len(block: Config, config: Config) -> int:
    given = read_int(config, "max_position_embeddings")
    return read_int(block, "original_max_position_embeddings", default=given)


def _dynamic(block: Config, config: Config) -> Scaling:
    # As transformers: the original length is max_position_embeddings, whatever else the block says.
    return DynamicScaling(read_float(block, "factor"), read_int(config, "max_position_embeddings"))


def _default(block: Config, config: Config) -> Scaling | None:
    del block, config
    return None


SCALINGS = {"default": _default, "linear": _linear, "dynamic": _dynamic, "llama3": _llama3, "yarn": _yarn}
