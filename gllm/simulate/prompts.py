"""The tokens of a trace's prompts, made up so that prompts agree exactly where their blocks do.

Knows nothing of the engine that will serve them.
"""

from array import array

import numpy as np

from gllm.traces import Trace

# Where a piece of made-up text begins: an odd stride visits every one of the starts before it repeats.
NUM_STARTS = 1 << 20
STRIDE = 0x9E375
SEED = 1


class Prompts:
    """Pieces of one random text, each block id or request its own."""

    def __init__(self, trace: Trace, vocab_size: int) -> None:
        self._trace = trace
        longest = max(request.num_prompt_tokens for request in trace.requests)
        random = np.random.default_rng(SEED)
        text = random.integers(0, vocab_size, NUM_STARTS + max(longest, trace.block_size), np.int32)
        self._text = array("i", text.tobytes())

    def tokens(self, index: int) -> "array[int]":
        """The prompt of request number `index`."""
        return self._trace.prompt(index, self._piece)

    def _piece(self, _kind: str, number: int, size: int) -> "array[int]":
        start = number * STRIDE % NUM_STARTS
        return self._text[start : start + size]
