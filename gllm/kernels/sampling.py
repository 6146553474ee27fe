"""Sampling for CUDA: no host waits, no sort, the same filters in the same order as `reference_logits.sample`.

The order: temperature; top_k, and tokens equal to the last kept; top_p, lower ids first among equals;
min_p; the draw by inverse CDF in order of token ids. Sums are float64, in an order that depends on the row
alone. What changes the logits before that is in `logits.py`.

Two kernels, a program a row. `list_likely` finds the greedy token, and for rows with filters a short
list of tokens, in order of their ids, that surely holds all that the filters keep. `draw` finds the
least likely kept token by bisection over the bits of its distance from the likeliest, and draws. Rows
whose list overflows LIST_SIZE, and rows without filters, are drawn from the logits themselves.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gllm.kernels.reference_logits import GREEDY_BELOW

LIST_SIZE = 8192  # likely tokens a row may list
BLOCK = 4096  # tokens read at once; with half of it two programs share a multiprocessor, and are no faster
DEEP_BLOCK = 2048  # where each is weighed against all depths
NUM_WARPS = 16
NUM_REACHES = 8  # candidate depths of the list: 4 * sqrt(2)**i below the likeliest, in units of temperature
MARGIN = 1.0001  # float32 rounding of the sums that choose among them

_BLOCK = tl.constexpr(BLOCK)
_DEEP_BLOCK = tl.constexpr(DEEP_BLOCK)
_LIST_SIZE = tl.constexpr(LIST_SIZE)
_NUM_REACHES = tl.constexpr(NUM_REACHES)
_MARGIN = tl.constexpr(MARGIN)
_GREEDY_BELOW = tl.constexpr(GREEDY_BELOW)
_NO_TOKEN = tl.constexpr(0x7FFFFFFF)
_KEY_BITS = tl.constexpr(31)


@triton.jit
def _likeliest(logits, vocab):
    """The highest logit and the lowest id that has it."""
    i = tl.arange(0, _BLOCK)
    best = tl.full((_BLOCK,), float("-inf"), tl.float32)
    token = tl.zeros((_BLOCK,), tl.int32) + i
    for first in tl.range(0, vocab, _BLOCK, loop_unroll_factor=4):
        x = tl.load(logits + first + i, mask=first + i < vocab, other=float("-inf")).to(tl.float32)
        better = x > best
        best = tl.where(better, x, best)
        token = tl.where(better, first + i, token)
    highest = tl.max(best, 0)
    lowest_id = tl.min(tl.where(best == highest, token, _NO_TOKEN), 0)
    return highest, tl.minimum(lowest_id, vocab - 1)  # of a row of NaN, any token


@triton.jit
def greedy_rows(logits, out, row_stride, vocab):
    row = tl.program_id(0).to(tl.int64)
    _, token = _likeliest(logits + row * row_stride, vocab)
    tl.store(out + row, token.to(tl.int64))


@triton.jit
def _depth_of(logits, highest, temperature, vocab, needed, mass, BY_COUNT: tl.constexpr):
    """How far below the likeliest a list must reach to hold `needed` tokens (BY_COUNT), or else that share
    of all probability, which is written to `mass`; infinity if no candidate depth is enough."""
    reach = tl.exp2(2.0 + 0.5 * tl.arange(0, _NUM_REACHES).to(tl.float32))
    j = tl.arange(0, _DEEP_BLOCK)
    held = tl.zeros((_NUM_REACHES, _DEEP_BLOCK), tl.float32)
    total = tl.zeros((_DEEP_BLOCK,), tl.float64)
    for first in tl.range(0, vocab, _DEEP_BLOCK):
        x = tl.load(logits + first + j, mask=first + j < vocab, other=float("-inf")).to(tl.float32)
        x = (x - highest) / temperature
        if BY_COUNT:
            held += tl.where(x[None, :] >= -reach[:, None], 1.0, 0.0)
        else:
            share = tl.exp(x)
            total += share.to(tl.float64)
            held += tl.where(x[None, :] >= -reach[:, None], share[None, :], 0.0)
    if not BY_COUNT:
        all_of_it = tl.sum(total, 0)
        tl.store(mass, all_of_it)
        needed = needed * all_of_it.to(tl.float32)
    return tl.min(tl.where(tl.sum(held, 1) >= needed, reach, float("inf")), 0)


@triton.jit
def list_likely(
    logits, temperatures, top_ks, top_ps, log_min_ps, out, highests, masses, counts, listed, tokens,
    row_stride, vocab, HAS_MIN_P: tl.constexpr,
):  # fmt: skip
    """Writes per row: out, the greedy token; highests float32; counts int32, the length of its list, -1 for
    none; listed float32 and tokens int32 [rows, LIST_SIZE]: (logit - highest) / temperature, and its id;
    masses float64: the probability of all tokens, listed or not, in units of the likeliest's."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    temperature = tl.load(temperatures + row)
    top_k = tl.load(top_ks + row)
    top_p = tl.load(top_ps + row)
    highest, token = _likeliest(logits, vocab)
    tl.store(out + row, token.to(tl.int64))
    tl.store(highests + row, highest)
    by_count = (top_k > 0) & (top_k < vocab)
    depth = tl.zeros((), tl.float32)  # 0: no list
    if temperature >= _GREEDY_BELOW:
        if by_count:
            depth = _depth_of(logits, highest, temperature, vocab, top_k.to(tl.float32), masses + row, True)
        elif top_p < 1.0:
            depth = _depth_of(logits, highest, temperature, vocab, top_p * _MARGIN, masses + row, False)
        elif HAS_MIN_P:
            # The mass of what is kept is summed over the list.
            log_min_p = tl.load(log_min_ps + row)
            depth = tl.where(log_min_p > float("-inf"), 0.0 - log_min_p, 0.0)
            depth = tl.where(log_min_p == 0.0, 1e-30, depth)
    count = -1
    if depth > 0.0:
        i = tl.arange(0, _BLOCK)
        listed += row * _LIST_SIZE
        tokens += row * _LIST_SIZE
        count = 0
        for first in tl.range(0, vocab, _BLOCK):
            x = tl.load(logits + first + i, mask=first + i < vocab, other=float("-inf")).to(tl.float32)
            x = (x - highest) / temperature
            likely = (x >= -depth) & (first + i < vocab)
            found = likely.to(tl.int32)
            at = count + tl.cumsum(found, 0) - found
            fits = likely & (at < _LIST_SIZE)
            tl.store(listed + at, x, mask=fits)
            tl.store(tokens + at, first + i, mask=fits)
            count += tl.sum(found, 0)
        count = tl.where(count <= _LIST_SIZE, count, -1)
    tl.store(counts + row, count)


@triton.jit
def _below(listed, logits, is_listed, first, length, highest, temperature):
    """A block of (logit - highest) / temperature, at most 0; -inf behind the end."""
    i = first + tl.arange(0, _BLOCK)
    if is_listed:
        x = tl.load(listed + i, mask=i < length, other=float("-inf"))
    else:
        x = tl.load(logits + i, mask=i < length, other=float("-inf")).to(tl.float32)
        x = (x - highest) / temperature
    return x


@triton.jit
def _key(x):
    """Bits that order x <= 0 from the likeliest, 0, up."""
    return (0.0 - x).to(tl.int32, bitcast=True)


@triton.jit
def _held(listed, logits, is_listed, length, highest, temperature, last_key, BY_COUNT: tl.constexpr):
    """Of the tokens with keys up to `last_key`: their number, or their probability times a constant."""
    held = tl.zeros((_BLOCK,), tl.float64)
    for first in tl.range(0, length, _BLOCK):
        x = _below(listed, logits, is_listed, first, length, highest, temperature)
        share = tl.where(x > float("-inf"), 1.0, 0.0) if BY_COUNT else tl.exp(x)
        held += tl.where(_key(x) <= last_key, share, 0.0).to(tl.float64)
    return tl.sum(held, 0)


@triton.jit
def _least_key(
    listed, logits, is_listed, length, highest, temperature, needed, last_key, BY_COUNT: tl.constexpr
):  # fmt: skip
    """The least key, at most `last_key`, up to which the tokens hold `needed`."""
    low = last_key * 0 - 1
    high = last_key
    for _ in tl.range(0, _KEY_BITS):
        middle = low + (high - low) // 2
        enough = _held(listed, logits, is_listed, length, highest, temperature, middle, BY_COUNT) >= needed
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle)
    return high


@triton.jit
def uniform(seed, position):
    """`reference_logits.uniform`: float64 of (0, 1) from the first word of Philox4x32-10."""
    low = (position & 0xFFFFFFFF).to(tl.uint32)
    high = (position >> 32).to(tl.uint32)
    word, _, _, _ = tl.philox(seed, low, high, low * 0, low * 0)
    return (word.to(tl.float64) + 0.5) * (1.0 / 4294967296.0)


@triton.jit
def draw(
    logits, temperatures, top_ks, top_ps, log_min_ps, seeds, positions, out, highests, masses, counts,
    listed, tokens, row_stride, vocab, HAS_MIN_P: tl.constexpr,
):  # fmt: skip
    """out[row] = the drawn token, of rows that are not greedy."""
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperatures + row)
    if temperature >= _GREEDY_BELOW:
        logits += row * row_stride
        listed += row * _LIST_SIZE
        tokens += row * _LIST_SIZE
        top_k = tl.load(top_ks + row)
        top_p = tl.load(top_ps + row).to(tl.float64)
        highest = tl.load(highests + row)
        count = tl.load(counts + row)
        is_listed = count > 0  # no list, or (of a row of NaN) an empty one: any token of the logits
        length = tl.where(is_listed, count, vocab)

        last_key = tl.zeros((), tl.int32) + 0x7F7FFFFF  # the key of the least float32: all that is possible
        by_count = (top_k > 0) & (top_k < vocab)
        if by_count:
            last_key = _least_key(
                listed, logits, is_listed, length, highest, temperature, top_k.to(tl.float64), last_key, True
            )
        mass = _held(listed, logits, is_listed, length, highest, temperature, last_key, False)
        if is_listed & (by_count == 0) & (top_p < 1.0):
            mass = tl.load(masses + row)
        num_last = _NO_TOKEN  # of the tokens with the last key, how many are kept
        if top_p < 1.0:
            wanted = tl.maximum(top_p * mass, 1e-300)  # at least one token
            last_key = _least_key(
                listed, logits, is_listed, length, highest, temperature, wanted, last_key, False
            )
            above = _held(listed, logits, is_listed, length, highest, temperature, last_key - 1, False)
            each = tl.exp(0.0 - last_key.to(tl.float32, bitcast=True)).to(tl.float64)
            num_last = tl.minimum(tl.maximum(tl.ceil((wanted - above) / each), 1.0), 1e9).to(tl.int32)
            through = _held(listed, logits, is_listed, length, highest, temperature, last_key, False)
            mass = tl.minimum(above + num_last.to(tl.float64) * each, through)
        if HAS_MIN_P:
            min_p_key = _key(tl.load(log_min_ps + row))
            if min_p_key < last_key:
                last_key = min_p_key
                num_last = tl.zeros((), tl.int32) + _NO_TOKEN
                mass = _held(listed, logits, is_listed, length, highest, temperature, last_key, False)

        target = uniform(tl.load(seeds + row), tl.load(positions + row)) * mass
        reached = tl.zeros((), tl.float64)
        seen_last = 0
        chosen = tl.zeros((), tl.int32) + _NO_TOKEN
        final = tl.zeros((), tl.int32)  # the last kept one, should rounding leave the target beyond all
        for first in tl.range(0, length, _BLOCK):
            if chosen == _NO_TOKEN:
                x = _below(listed, logits, is_listed, first, length, highest, temperature)
                key = _key(x)
                index = first + tl.arange(0, _BLOCK)
                equal = (key == last_key).to(tl.int32)
                kept = (index < length) & (key <= last_key)
                if seen_last + tl.sum(equal, 0) > num_last:
                    kept = kept & ((key < last_key) | (seen_last + tl.cumsum(equal, 0) <= num_last))
                share = tl.where(kept, tl.exp(x), 0.0).to(tl.float64)
                after = reached + tl.sum(share, 0)
                if after > target:  # in this block, or by rounding in the next: only here is a scan due
                    passed = kept & (reached + tl.cumsum(share, 0) > target)
                    chosen = tl.min(tl.where(passed, index, _NO_TOKEN), 0)
                final = tl.maximum(final, tl.max(tl.where(kept, index, 0), 0))
                reached = after
                seen_last += tl.sum(equal, 0)
        chosen = tl.where(chosen == _NO_TOKEN, final, chosen)
        token = chosen
        if is_listed:
            token = tl.load(tokens + chosen)
        tl.store(out + row, token.to(tl.int64))


def greedy(logits: Tensor, out: Tensor | None = None) -> Tensor:
    """See `reference_logits.greedy`. logits: any float dtype, each row's values adjacent."""
    out = _tokens_like(logits) if out is None else out
    if len(logits):
        greedy_rows[(len(logits),)](logits, out, logits.stride(0), logits.shape[1], num_warps=NUM_WARPS)
    return out


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seed: Tensor,
    position: Tensor,
    log_min_p: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """See `reference_logits.sample`. logits: any float dtype, each row's values adjacent."""
    out = _tokens_like(logits) if out is None else out
    rows, vocab = logits.shape
    if rows:
        highests = logits.new_empty(rows, dtype=torch.float32)
        masses = logits.new_empty(rows, dtype=torch.float64)
        counts = logits.new_empty(rows, dtype=torch.int32)
        listed = logits.new_empty((rows, LIST_SIZE), dtype=torch.float32)
        tokens = logits.new_empty((rows, LIST_SIZE), dtype=torch.int32)
        has_min_p = log_min_p is not None
        filters = temperature, top_k, top_p, log_min_p if has_min_p else top_p
        shared = out, highests, masses, counts, listed, tokens, logits.stride(0), vocab, has_min_p
        list_likely[(rows,)](logits, *filters, *shared, num_warps=NUM_WARPS)
        draw[(rows,)](logits, *filters, seed, position, *shared, num_warps=NUM_WARPS)
    return out


def _tokens_like(logits: Tensor) -> Tensor:
    if logits.stride(1) != 1:
        raise ValueError("sampling takes rows of adjacent logits")
    return logits.new_empty(len(logits), dtype=torch.int64)
