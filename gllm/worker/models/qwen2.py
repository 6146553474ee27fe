"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values."""

from typing import Any

from gllm.checkpoint import CheckpointError, read_int
from gllm.worker.models import llama
from gllm.worker.models.decoder import Architecture, read_common

NAMES = llama.NAMES


def read(config: dict[str, Any]) -> Architecture:
    """Qwen2's facts from config.json; raises `CheckpointError` where layers see a sliding window only."""
    facts = Architecture(**read_common(config), qkv_bias=True)
    # Layers from max_window_layers on slide, so that the published files with 28 of 28 slide nowhere.
    first_sliding = read_int(config, "max_window_layers", default=facts.num_layers, low=0)
    slides = bool(config.get("use_sliding_window", False)) and first_sliding < facts.num_layers
    if slides or "sliding_attention" in (config.get("layer_types") or []):
        raise CheckpointError(
            "config.json: use_sliding_window is true, but sliding windows are not supported: set it to false "
            "to attend to the whole context"
        )
    return facts
