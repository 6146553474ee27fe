"""Log-probabilities of one token a row and of the likeliest, for CUDA; see `reference_logits.logprobs`.

`weigh_rows` reads each row twice: the highest logit, then the sum of all exponentials and the number of
likelier tokens. The likeliest come by way of keys: 64-bit integers that order tokens by logit and, among
equals, put the lower id first, so that no two are equal. `list_highest` takes the highest keys of parts of
a row one after the other out of registers, `merge_highest` those of the row.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # logits read at once
PART = 2048  # logits of which a program lists the highest
MOST_LISTED = 64  # beyond so many a whole row is sorted: the lists of its parts would be hardly shorter

_NONE = tl.constexpr(-0x7FFFFFFFFFFFFFFF)  # below the key of any token


@triton.jit(do_not_specialize=["num_top"])
def weigh_rows(logits, tokens, ranks, ids, values, log_sums, row_stride, vocab, num_top, BLOCK: tl.constexpr):
    """Writes ranks, log_sums float32 (logarithms of the sums of exponentials), and the first column of
    ids and values, which have 1 + num_top columns."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    i = tl.arange(0, BLOCK)
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    for first in tl.range(0, vocab, BLOCK):
        x = tl.load(logits + first + i, mask=first + i < vocab, other=float("-inf"))
        best = tl.maximum(best, x)
    highest = tl.max(best, 0)
    token = tl.load(tokens + row)
    own = tl.load(logits + token)
    total = tl.zeros((BLOCK,), tl.float32)
    likelier = tl.zeros((BLOCK,), tl.int32)
    for first in tl.range(0, vocab, BLOCK):
        x = tl.load(logits + first + i, mask=first + i < vocab, other=float("-inf"))
        total += tl.exp(x - highest)
        likelier += (x > own).to(tl.int32)
    log_sum = highest + tl.log(tl.sum(total, 0))
    tl.store(log_sums + row, log_sum)
    tl.store(ranks + row, tl.sum(likelier, 0).to(tl.int64) + 1)
    tl.store(ids + row * (num_top + 1), token)
    tl.store(values + row * (num_top + 1), own - log_sum)


@triton.jit
def _keys(x, token):
    """Keys of tokens, which fall as logits fall; -0 is 0."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    rising = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (rising.to(tl.int64) << 32) | (0x7FFFFFFF - token).to(tl.int64)


@triton.jit(do_not_specialize=["num_top"])
def list_highest(logits, keys, row_stride, vocab, num_top, PART: tl.constexpr):
    """keys int64 [rows, parts, num_top]: the highest keys of each part, falling; _NONE behind its last."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    token = part * PART + tl.arange(0, PART)
    x = tl.load(logits + row * row_stride + token, mask=token < vocab, other=float("-inf"))
    left = tl.where(token < vocab, _keys(x, token), _NONE)
    keys += (row * tl.num_programs(1) + part) * num_top
    for number in tl.range(0, num_top):
        highest = tl.max(left, 0)
        tl.store(keys + number, highest)
        left = tl.where(left == highest, _NONE, left)


@triton.jit(do_not_specialize=["num_keys", "num_top"])
def merge_highest(
    logits, keys, ids, values, log_sums, row_stride, num_keys, num_top, BLOCK: tl.constexpr
):  # fmt: skip
    """Writes the columns of ids and values behind the first one from the `num_keys` keys of each row."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    left = tl.load(keys + row * num_keys + i, mask=i < num_keys, other=_NONE)
    log_sum = tl.load(log_sums + row)
    at = row * (num_top + 1) + 1
    for number in tl.range(0, num_top):
        highest = tl.max(left, 0)
        token = 0x7FFFFFFF - (highest & 0x7FFFFFFF)
        tl.store(ids + at + number, token)
        tl.store(values + at + number, tl.load(logits + row * row_stride + token) - log_sum)
        left = tl.where(left == highest, _NONE, left)


def logprobs(logits: Tensor, tokens: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference_logits.logprobs`. logits: float32, each row's values adjacent."""
    if logits.stride(1) != 1:
        raise ValueError("logprobs takes rows of adjacent logits")
    rows, vocab = logits.shape
    ranks = tokens.new_empty(rows)
    ids = tokens.new_empty((rows, 1 + num_top))
    values, log_sums = logits.new_empty((rows, 1 + num_top)), logits.new_empty(rows)
    if rows:
        weigh_rows[(rows,)](
            logits, tokens, ranks, ids, values, log_sums, logits.stride(0), vocab, num_top, BLOCK, num_warps=8
        )
        if num_top > MOST_LISTED:
            likeliest = logits.sort(dim=-1, descending=True, stable=True)
            ids[:, 1:] = likeliest.indices[:, :num_top]
            values[:, 1:] = likeliest.values[:, :num_top] - log_sums[:, None]
        elif num_top:
            _list_likeliest(logits, ids, values, log_sums, num_top)
    return ranks, ids, values


def _list_likeliest(logits: Tensor, ids: Tensor, values: Tensor, log_sums: Tensor, num_top: int) -> None:
    rows, vocab = logits.shape
    parts = triton.cdiv(vocab, PART)
    keys = torch.empty((rows, parts, num_top), dtype=torch.int64, device=logits.device)
    list_highest[(rows, parts)](logits, keys, logits.stride(0), vocab, num_top, PART, num_warps=4)
    block = triton.next_power_of_2(parts * num_top)
    merge_highest[(rows,)](
        logits, keys, ids, values, log_sums, logits.stride(0), parts * num_top, num_top, block,
        num_warps=4 if block <= 2048 else 16,
    )  # fmt: skip
