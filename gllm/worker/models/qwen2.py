"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values."""

from typing import Any

from gllm.worker.models import llama
from gllm.worker.models.architecture import Architecture
from gllm.worker.models.reading import read_common, read_window

NAMES = llama.NAMES


def read(config: dict[str, Any]) -> Architecture:
    """Qwen2's facts from config.json."""
    common = read_common(config)
    return Architecture(**common, qkv_bias=True, window=read_window(config, common["num_layers"]))
