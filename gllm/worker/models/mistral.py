"""Mistral: Llama, with a sliding window in its first version (4096 of 32768 tokens).

The window is not computed: sequences are held to its length, within which it hides nothing.
"""

from typing import Any

from gllm.checkpoint import read_int
from gllm.worker.models import llama
from gllm.worker.models.architecture import Architecture
from gllm.worker.models.reading import read_common

NAMES = llama.NAMES


def read(config: dict[str, Any]) -> Architecture:
    """Mistral's facts from config.json. A file that does not speak of the window has the first version's."""
    windowed = config.get("sliding_window", 4096) is not None
    window = read_int(config, "sliding_window", default=4096) if windowed else None
    return Architecture(**read_common(config), window=window)
