"""What both attention kernels do with one block of keys and values of one head.

Constexpr names of the attention kernels: GROUP query heads share a key head; SLOT is the distance of
two tokens in the pages, in elements; PAGE is in tokens; BLOCK_M is a tile's rows, query heads times
tokens; BLOCK_N is the keys of a block; BLOCK_D is head_dim padded to a power of two.
"""

import triton
import triton.language as tl


@triton.jit
def page_ids(pages, first, end, PAGE: tl.constexpr, BLOCK_N: tl.constexpr):
    """The pages of keys first, first + 1, ...: one number where a block never leaves its page."""
    key = first if PAGE % BLOCK_N == 0 else first + tl.arange(0, BLOCK_N)
    return tl.load(pages + key // PAGE, mask=key < end, other=0)


@triton.jit
def load_block(
    k_head, v_head, page, first, end,
    SLOT: tl.constexpr, PAGE: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Keys and values first, first + 1, ... of one head; zeros from `end` on if MASKED.

    Hazard: a slot behind `end` may hold anything, NaN included, and 0 * NaN is NaN: it must not be read.
    """
    key = first + tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    slot = page * PAGE + key % PAGE
    offset = (slot.to(tl.int64) * SLOT)[:, None] + d[None, :]
    if MASKED:
        known = (key < end)[:, None] & (d < HEAD_DIM)[None, :]
        k = tl.load(k_head + offset, mask=known, other=0.0)
        v = tl.load(v_head + offset, mask=known, other=0.0)
    elif BLOCK_D != HEAD_DIM:
        k = tl.load(k_head + offset, mask=(d < HEAD_DIM)[None, :], other=0.0)
        v = tl.load(v_head + offset, mask=(d < HEAD_DIM)[None, :], other=0.0)
    else:
        k = tl.load(k_head + offset)
        v = tl.load(v_head + offset)
    return k, v


@triton.jit
def attend(
    queries, k, v, first, position, scale, acc, most, total, BLOCK_N: tl.constexpr, MASKED: tl.constexpr
):  # fmt: skip
    """One step of the online softmax (Milakov & Gimelshein 2018): acc, most and total with the block in them.

    Scores are in units of log2, since exp2 is what the hardware has; so are `scale` and `most`.
    """
    scores = tl.dot(queries, tl.trans(k))
    if MASKED:
        key = first + tl.arange(0, BLOCK_N)
        scores = tl.where(key[None, :] <= position[:, None], scores, float("-inf"))
    higher = tl.maximum(most, tl.max(scores, 1) * scale)
    weights = tl.exp2(scores * scale - higher[:, None])
    kept = tl.exp2(most - higher)
    acc = tl.dot(weights.to(v.dtype), v, acc * kept[:, None])
    return acc, higher, total * kept + tl.sum(weights, 1)
