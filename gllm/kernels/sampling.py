"""Sampling for CUDA: no host waits, no sort, the same filters in the same order as `reference_logits.sample`.

The order: temperature; top_k, and tokens equal to the last kept; top_p, lower ids first among equals;
min_p; the draw by inverse CDF in order of token ids. Sums are float64, in an order that depends on the row
alone. What changes the logits before that is in `logits.py`.

A row is read in parts, a program each: `find_highest` finds the likeliest token of each part, `weigh_parts`
how many tokens, or how much probability, lie how far below the likeliest of all, and `list_likely` makes of
that a short list of tokens, in order of their ids, that surely holds all that the filters keep. `draw`, a
program a row, finds the least likely kept token by search over the bits of its distance from the likeliest,
and draws. Rows whose list overflows LIST_SIZE, and rows without filters, are drawn from the logits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gllm.kernels.reference_logits import GREEDY_BELOW

LIST_SIZE = 8192  # likely tokens a row may list
PART = 8192  # tokens of a row that a program looks at
BLOCK = 4096  # tokens that a program reads at once where it has the row to itself
NUM_WARPS = 16
PART_WARPS = 4  # of a program that takes a part piece by piece ...
HIGHEST_WARPS = 8  # ... or at once
DRAW_BLOCK = 2048  # tokens that a program which draws reads at once
DRAW_WARPS = 8
PIECE = 512  # tokens of a part at once
NUM_REACHES = 8  # candidate depths of the list: so many steps of REACH_STEP, the first is 0
REACH_STEP = 2.0  # below the likeliest, in units of temperature
MARGIN = 1.0001  # float32 rounding of the sums that choose among them

_PART = tl.constexpr(PART)
_BLOCK = tl.constexpr(BLOCK)
_PIECE = tl.constexpr(PIECE)
_DRAW_BLOCK = tl.constexpr(DRAW_BLOCK)
_LIST_SIZE = tl.constexpr(LIST_SIZE)
_NUM_REACHES = tl.constexpr(NUM_REACHES)
_REACH_STEP = tl.constexpr(REACH_STEP)
_MARGIN = tl.constexpr(MARGIN)
_GREEDY_BELOW = tl.constexpr(GREEDY_BELOW)
_NO_TOKEN = tl.constexpr(0x7FFFFFFF)
_LEAST_KEY = tl.constexpr(0x7F7FFFFF)  # of the least float32: all that is possible


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
def _logits(row, token, vocab):
    """Logits of a row; those behind its end and NaN count as impossible."""
    x = tl.load(row + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
    return tl.where(x == x, x, float("-inf"))


@triton.jit
def _depth(row, token, vocab, highest, temperature):
    """How far tokens lie below the likeliest, at most 0, in units of temperature."""
    return (_logits(row, token, vocab) - highest) / temperature


@triton.jit
def find_highest(logits, highest_of, token_of, row_stride, vocab):
    """highest_of float32 and token_of int32 [rows, parts]: the highest logit of each part, its lowest id."""
    token = tl.program_id(1) * _PART + tl.arange(0, _PART)
    x = _logits(logits + tl.program_id(0).to(tl.int64) * row_stride, token, vocab)
    highest = tl.max(x, 0)
    part = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(highest_of + part, highest)
    tl.store(token_of + part, tl.minimum(tl.min(tl.where(x == highest, token, _NO_TOKEN), 0), vocab - 1))


@triton.jit
def _is_by_count(top_k, vocab):
    return (top_k > 0) & (top_k < vocab)


@triton.jit
def weigh_parts(
    logits, temperatures, top_ks, top_ps, log_min_ps, out, highest_of, token_of, highests, masses, nums_held,
    masses_held, row_stride, vocab, PARTS: tl.constexpr, HAS_MIN_P: tl.constexpr,
):  # fmt: skip
    """Writes per row out, the greedy token, and highests float32. Per part of a row that is drawn masses
    float64: the probability of its tokens, in units of the likeliest's; and of filtered rows,
    within each reach, nums_held int32 and masses_held float32 [rows, parts, NUM_REACHES]: how many tokens,
    and their probability."""
    row = tl.program_id(0).to(tl.int64)
    num_parts = tl.num_programs(1)
    part = row * num_parts + tl.program_id(1)
    p = tl.arange(0, PARTS)
    own = tl.load(highest_of + row * num_parts + p, mask=p < num_parts, other=float("-inf"))
    highest = tl.max(own, 0)
    if tl.program_id(1) == 0:
        tokens = tl.load(token_of + row * num_parts + p, mask=p < num_parts, other=_NO_TOKEN)
        tl.store(out + row, tl.min(tl.where(own == highest, tokens, _NO_TOKEN), 0).to(tl.int64))
        tl.store(highests + row, highest)
    temperature = tl.load(temperatures + row)
    if temperature >= _GREEDY_BELOW:
        is_filtered = _is_by_count(tl.load(top_ks + row), vocab) | (tl.load(top_ps + row) < 1.0)
        if HAS_MIN_P:
            is_filtered = is_filtered | (tl.load(log_min_ps + row) > float("-inf"))
        first = tl.program_id(1) * _PART
        i = tl.arange(0, _PIECE)
        reach = tl.arange(0, _NUM_REACHES) * _REACH_STEP
        mass = tl.zeros((_PIECE,), tl.float64)
        num_held = tl.zeros((_NUM_REACHES, _PIECE), tl.int32)
        mass_held = tl.zeros((_NUM_REACHES, _PIECE), tl.float32)
        for start in tl.range(first, tl.minimum(first + _PART, vocab), _PIECE):
            x = _depth(logits + row * row_stride, start + i, vocab, highest, temperature)
            share = tl.exp(x)
            mass += share.to(tl.float64)
            if is_filtered:
                within = x[None, :] >= 0.0 - reach[:, None]
                num_held += within.to(tl.int32)
                mass_held += tl.where(within, share[None, :], 0.0)
        tl.store(masses + part, tl.sum(mass, 0))
        if is_filtered:
            at = part * _NUM_REACHES + tl.arange(0, _NUM_REACHES)
            tl.store(nums_held + at, tl.sum(num_held, 1))
            tl.store(masses_held + at, tl.sum(mass_held, 1))


@triton.jit
def list_likely(
    logits, temperatures, top_ks, top_ps, log_min_ps, highests, masses, nums_held, masses_held, counts,
    listed, tokens, row_stride, vocab, PARTS: tl.constexpr, HAS_MIN_P: tl.constexpr,
):  # fmt: skip
    """Writes per row: counts int32, the length of its list, -1 for none; listed float32 and tokens int32
    [rows, LIST_SIZE]: (logit - highest) / temperature, and its id."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    num_parts = tl.num_programs(1)
    temperature = tl.load(temperatures + row)
    top_k = tl.load(top_ks + row)
    top_p = tl.load(top_ps + row)
    by_count = _is_by_count(top_k, vocab)
    is_filtered = by_count | (top_p < 1.0)
    log_min_p = float("-inf")
    if HAS_MIN_P:
        log_min_p = tl.load(log_min_ps + row)
        is_filtered = is_filtered | (log_min_p > float("-inf"))
    count = -1
    if (temperature >= _GREEDY_BELOW) & is_filtered:
        p = tl.arange(0, PARTS)
        index = tl.arange(0, _NUM_REACHES)
        at = (row * num_parts + p[:, None]) * _NUM_REACHES + index[None, :]
        known = (p < num_parts)[:, None]
        num_held = tl.load(nums_held + at, mask=known, other=0)
        if by_count:
            is_enough = tl.sum(num_held, 0) >= top_k
        elif top_p >= 1.0:
            is_enough = index * _REACH_STEP >= 0.0 - log_min_p
        else:
            mass = tl.sum(tl.load(masses + row * num_parts + p, mask=p < num_parts, other=0.0), 0)
            held = tl.sum(tl.load(masses_held + at, mask=known, other=0.0), 0)
            is_enough = held >= top_p * _MARGIN * mass.to(tl.float32)
        chosen = tl.min(tl.where(is_enough, index, _NUM_REACHES), 0)
        num_of = tl.sum(tl.where(index[None, :] == chosen, num_held, 0), 1)
        count = tl.sum(num_of, 0)
        if (chosen < _NUM_REACHES) & (count <= _LIST_SIZE):
            highest = tl.load(highests + row)
            i = tl.arange(0, _PIECE)
            end = row * _LIST_SIZE + tl.sum(tl.where(p < part, num_of, 0), 0)  # of the list so far
            for first in tl.range(part * _PART, tl.minimum((part + 1) * _PART, vocab), _PIECE):
                x = _depth(logits + row * row_stride, first + i, vocab, highest, temperature)
                likely = x >= 0.0 - chosen * _REACH_STEP
                found = likely.to(tl.int32)
                at_list = end + tl.cumsum(found, 0) - found
                tl.store(listed + at_list, x, mask=likely)
                tl.store(tokens + at_list, first + i, mask=likely)
                end += tl.sum(found, 0)
        else:
            count = -1
    if part == 0:
        tl.store(counts + row, count)


@triton.jit
def _below(listed, logits, is_listed, first, length, highest, temperature):
    """A block of (logit - highest) / temperature, at most 0; -inf behind the end."""
    i = first + tl.arange(0, _DRAW_BLOCK)
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
def _held(listed, logits, is_listed, length, highest, temperature, last_key):
    """The probability of the tokens with keys up to `last_key`, times a constant."""
    held = tl.zeros((_DRAW_BLOCK,), tl.float64)
    for first in tl.range(0, length, _DRAW_BLOCK):
        x = _below(listed, logits, is_listed, first, length, highest, temperature)
        held += tl.where(_key(x) <= last_key, tl.exp(x), 0.0).to(tl.float64)
    return tl.sum(held, 0)


@triton.jit
def _least_key(
    listed, logits, is_listed, length, highest, temperature, needed, last_key, BY_COUNT: tl.constexpr
):  # fmt: skip
    """The least key, at most `last_key`, up to which the tokens hold `needed`.

    Each search looks at the borders of four quarters of the keys that are left.
    """
    low = last_key * 0 - 1
    high = last_key
    quarter = tl.arange(0, 4)
    while high - low > 1:
        border = tl.minimum(low + tl.maximum((high - low) // 4, 1) * (quarter + 1), high)
        held = tl.zeros((4, _DRAW_BLOCK), tl.float64)
        for first in tl.range(0, length, _DRAW_BLOCK):
            x = _below(listed, logits, is_listed, first, length, highest, temperature)
            share = tl.where(x > float("-inf"), 1.0, 0.0) if BY_COUNT else tl.exp(x)
            held += tl.where(_key(x)[None, :] <= border[:, None], share[None, :], 0.0).to(tl.float64)
        is_enough = tl.sum(held, 1) >= needed
        new_high = tl.min(tl.where(is_enough, border, high), 0)
        low = tl.max(tl.where(is_enough | (border >= new_high), low, border), 0)
        high = new_high
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
    listed, tokens, row_stride, vocab, num_parts, PARTS: tl.constexpr, HAS_MIN_P: tl.constexpr,
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

        last_key = tl.zeros((), tl.int32) + _LEAST_KEY
        by_count = _is_by_count(top_k, vocab)
        if by_count:
            last_key = _least_key(
                listed, logits, is_listed, length, highest, temperature, top_k.to(tl.float64), last_key, True
            )
        p = tl.arange(0, PARTS)
        mass_of = tl.load(masses + row * num_parts + p, mask=p < num_parts, other=0.0)
        mass = tl.sum(mass_of, 0)
        if by_count:
            mass = _held(listed, logits, is_listed, length, highest, temperature, last_key)
        num_last = _NO_TOKEN  # of the tokens with the last key, how many are kept
        if top_p < 1.0:
            wanted = tl.maximum(top_p * mass, 1e-300)  # at least one token
            last_key = _least_key(
                listed, logits, is_listed, length, highest, temperature, wanted, last_key, False
            )
            above = _held(listed, logits, is_listed, length, highest, temperature, last_key - 1)
            each = tl.exp(0.0 - last_key.to(tl.float32, bitcast=True)).to(tl.float64)
            num_last = tl.minimum(tl.maximum(tl.ceil((wanted - above) / each), 1.0), 1e9).to(tl.int32)
            through = _held(listed, logits, is_listed, length, highest, temperature, last_key)
            mass = tl.minimum(above + num_last.to(tl.float64) * each, through)
        if HAS_MIN_P:
            min_p_key = _key(tl.load(log_min_ps + row))
            if min_p_key < last_key:
                last_key = min_p_key
                num_last = tl.zeros((), tl.int32) + _NO_TOKEN
                mass = _held(listed, logits, is_listed, length, highest, temperature, last_key)

        target = uniform(tl.load(seeds + row), tl.load(positions + row)) * mass
        reached = tl.zeros((), tl.float64)
        start = length * 0
        is_unfiltered = (by_count == 0) & (top_p >= 1.0) & (last_key == _LEAST_KEY)
        if is_unfiltered:  # the part in which the target lies is known
            passed_parts = (tl.cumsum(mass_of, 0) <= target) & (p < num_parts - 1)
            reached += tl.sum(tl.where(passed_parts, mass_of, 0.0), 0)
            start += tl.sum(passed_parts.to(tl.int32), 0) * _PART
        seen_last = 0
        chosen = tl.zeros((), tl.int32) + _NO_TOKEN
        final = tl.zeros((), tl.int32)  # the last kept one, should rounding leave the target beyond all
        for first in tl.range(start, length, _DRAW_BLOCK):
            if chosen == _NO_TOKEN:
                x = _below(listed, logits, is_listed, first, length, highest, temperature)
                key = _key(x)
                index = first + tl.arange(0, _DRAW_BLOCK)
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
        num_parts = triton.cdiv(vocab, PART)
        parts, grid = triton.next_power_of_2(num_parts), (rows, num_parts)

        def table(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return logits.new_empty((rows, *shape), dtype=dtype)

        highest_of, token_of = table(num_parts), table(num_parts, dtype=torch.int32)
        highests, masses = table(), table(num_parts, dtype=torch.float64)
        held = table(num_parts, NUM_REACHES, dtype=torch.int32), table(num_parts, NUM_REACHES)
        counts = table(dtype=torch.int32)
        lists = table(LIST_SIZE), table(LIST_SIZE, dtype=torch.int32)
        size = logits.stride(0), vocab
        has_min_p = log_min_p is not None
        filters = temperature, top_k, top_p, log_min_p if has_min_p else top_p
        find_highest[grid](logits, highest_of, token_of, *size, num_warps=HIGHEST_WARPS)
        weigh_parts[grid](
            logits, *filters, out, highest_of, token_of, highests, masses, *held, *size, parts, has_min_p,
            num_warps=PART_WARPS,
        )  # fmt: skip
        list_likely[grid](
            logits, *filters, highests, masses, *held, counts, *lists, *size, parts, has_min_p,
            num_warps=PART_WARPS,
        )  # fmt: skip
        draw[(rows,)](
            logits, *filters, seed, position, out, highests, masses, counts, *lists, *size, num_parts, parts,
            has_min_p, num_warps=DRAW_WARPS,
        )  # fmt: skip
    return out


def _tokens_like(logits: Tensor) -> Tensor:
    if logits.stride(1) != 1:
        raise ValueError("sampling takes rows of adjacent logits")
    return logits.new_empty(len(logits), dtype=torch.int64)
