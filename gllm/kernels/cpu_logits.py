"""What changes logits before a token is drawn, and what reads log-probabilities off them, for a CPU.

Shapes and meanings are documented in `reference_logits.py`. Knows nothing of models, slots or steps.
"""

import numpy as np
import torch
from torch import Tensor

from gllm.kernels.reference_logits import IN_PROMPT, MASK32

LOGPROBS_BLOCK = 1 << 20  # logits that are ordered at once, at eight bytes each


def apply_masks(logits: Tensor, rows: Tensor, bits: Tensor) -> None:
    # Row by row: a batch has few of them, and what one row unpacks to stays in the cache.
    for row, words in zip(rows.tolist(), bits.numpy(), strict=True):
        allowed = np.unpackbits(words.view(np.uint8), count=logits.shape[1], bitorder="little")
        logits[row].masked_fill_(torch.from_numpy(allowed).view(torch.bool).logical_not(), float("-inf"))


def ban_words(
    logits: Tensor, rows: Tensor, slots: Tensor, position: Tensor, words: Tensor, recent: Tensor
) -> None:
    length, window = words.shape[1], recent.shape[1]
    before = position[:, None] - torch.arange(length - 1, 0, -1)
    generated = recent[slots[:, None], before % window]
    complete = ((words[:, :-1] < 0) | (generated == words[:, :-1])).all(1)
    logits[rows[complete], words[complete, -1].long()] = float("-inf")


def add_to_logits(logits: Tensor, rows: Tensor, tokens: Tensor, values: Tensor) -> None:
    logits.index_put_((rows, tokens), values, accumulate=True)


def penalize(
    logits: Tensor,
    rows: Tensor,
    slots: Tensor,
    counts: Tensor,
    repetition: Tensor,
    frequency: Tensor,
    presence: Tensor,
) -> None:
    # Row by row: of a large vocabulary a sequence has few tokens, and only those are touched.
    for row, slot, repeated, often, present in zip(
        rows.tolist(), slots.tolist(), repetition, frequency, presence, strict=True
    ):
        tokens = counts[slot].nonzero()[:, 0]
        x = logits[row, tokens]
        generated = (counts[slot, tokens] & (IN_PROMPT - 1)).float()
        x = torch.where(x > 0, x / repeated, x * repeated)
        logits[row, tokens] = x - often * generated - present * (generated > 0)


def logprobs(logits: Tensor, tokens: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor]:
    block = max(1, LOGPROBS_BLOCK // logits.shape[1])
    parts = [
        _logprobs(logits[start : start + block], tokens[start : start + block, None], num_top)
        for start in range(0, max(len(logits), 1), block)
    ]
    ranks, ids, values = (torch.cat(part) for part in zip(*parts, strict=True))
    return ranks, ids, values


def _logprobs(logits: Tensor, tokens: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """`tokens`: [rows, 1]."""
    ids = torch.cat([tokens, _likeliest(logits, num_top)], dim=1) if num_top else tokens
    values = logits.gather(1, ids)
    ranks = (logits > values[:, :1]).sum(-1) + 1
    return ranks, ids, values - logits.logsumexp(-1, keepdim=True)


def _likeliest(logits: Tensor, count: int) -> Tensor:
    """int64 [rows, count], in falling order, the lower id first among equals.

    Topk orders equals as it likes. So it gets integers of which no two are equal: the bits of a float
    that order it, over those of an id that put the lower one higher. Adding 0 makes -0 the 0 it equals.
    """
    bits = (logits + 0.0).view(torch.int32).long()
    keys = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits) << 32
    keys |= MASK32 - torch.arange(logits.shape[1])
    return MASK32 - (keys.topk(count).values & MASK32)
