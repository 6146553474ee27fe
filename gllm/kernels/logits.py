"""What changes logits before a token is drawn, in place, for CUDA. Shapes: see `reference_logits.py`.

Each operator knows from shapes alone how much work there is: nothing is read on the host. Rows of
logits may lie apart, their values may not. Numbers that change from step to step are not specialised on.
"""

import triton
import triton.language as tl
from torch import Tensor

from gllm.kernels.reference_logits import IN_PROMPT

BLOCK = 4096  # logits a program looks at
FEW = 256  # single logits a program changes


@triton.jit
def mask_logits(logits, rows, bits, row_stride, bits_stride, vocab, BLOCK: tl.constexpr):
    """Writes only what is forbidden: nothing is read but the bits."""
    mask = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    word = tl.load(bits + mask * bits_stride + i // 32, mask=i < vocab, other=0)
    forbidden = ((word >> (i % 32)) & 1) == 0
    row = tl.load(rows + mask)
    tl.store(logits + row * row_stride + i, float("-inf"), mask=forbidden & (i < vocab))


@triton.jit(do_not_specialize=["length"])
def ban_last_tokens(
    logits, rows, slots, positions, words, recent, row_stride, length, WINDOW: tl.constexpr,
    BLOCK_L: tl.constexpr,
):  # fmt: skip
    """One program a word."""
    number = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, BLOCK_L)
    word = tl.load(words + number * length + j, mask=j < length - 1, other=-1)
    # The window is a ring; positions before the first token are in no ring, and no token is there.
    at = (tl.load(positions + number) - (length - 1 - j)) % WINDOW
    at = tl.where(at < 0, at + WINDOW, at)
    slot = tl.load(slots + number)
    generated = tl.load(recent + slot * WINDOW + at, mask=word >= 0, other=-1)
    if tl.sum((word != generated).to(tl.int32), 0) == 0:
        last = tl.load(words + number * length + length - 1)
        tl.store(logits + tl.load(rows + number) * row_stride + last, float("-inf"))


@triton.jit(do_not_specialize=["num_values"])
def add_values(logits, rows, tokens, values, row_stride, num_values, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = i < num_values
    row = tl.load(rows + i, mask=known, other=0)
    token = tl.load(tokens + i, mask=known, other=0)
    # Added at once by whoever comes: of two for one place, one at most is finite.
    tl.atomic_add(logits + row * row_stride + token, tl.load(values + i, mask=known, other=0.0), mask=known)


@triton.jit
def penalize_logits(
    logits, rows, slots, counts, repetitions, frequencies, presences, row_stride, vocab,
    IN_PROMPT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    seen = tl.load(counts + tl.load(slots + number) * vocab + i, mask=i < vocab, other=0)
    # Most tokens were never seen: their logits are neither read nor written.
    at = logits + tl.load(rows + number) * row_stride + i
    x = tl.load(at, mask=seen != 0, other=0.0)
    repetition = tl.load(repetitions + number)
    x = tl.where(x > 0, x / repetition, x * repetition)
    generated = (seen & (IN_PROMPT - 1)).to(tl.float32)
    x -= tl.load(frequencies + number) * generated
    x -= tl.where(generated > 0, tl.load(presences + number), 0.0)
    tl.store(at, x, mask=seen != 0)


def apply_masks(logits: Tensor, rows: Tensor, bits: Tensor) -> None:
    """See `reference_logits.apply_masks`."""
    _adjacent(logits)
    _adjacent(bits)
    vocab = logits.shape[1]
    if len(rows):
        mask_logits[(len(rows), triton.cdiv(vocab, BLOCK))](
            logits, rows, bits, logits.stride(0), bits.stride(0), vocab, BLOCK, num_warps=4
        )


def ban_words(
    logits: Tensor, rows: Tensor, slots: Tensor, position: Tensor, words: Tensor, recent: Tensor
) -> None:
    """See `reference_logits.ban_words`."""
    _adjacent(logits)
    num_words, length = words.shape
    if num_words:
        ban_last_tokens[(num_words,)](
            logits, rows, slots, position, words.contiguous(), recent, logits.stride(0), length,
            recent.shape[1], triton.next_power_of_2(length), num_warps=1,
        )  # fmt: skip


def add_to_logits(logits: Tensor, rows: Tensor, tokens: Tensor, values: Tensor) -> None:
    """See `reference_logits.add_to_logits`."""
    _adjacent(logits)
    if len(rows):
        grid = (triton.cdiv(len(rows), FEW),)
        add_values[grid](logits, rows, tokens, values, logits.stride(0), len(rows), FEW, num_warps=4)


def penalize(
    logits: Tensor,
    rows: Tensor,
    slots: Tensor,
    counts: Tensor,
    repetition: Tensor,
    frequency: Tensor,
    presence: Tensor,
) -> None:
    """See `reference_logits.penalize`."""
    _adjacent(logits)
    vocab = logits.shape[1]
    if len(rows):
        penalize_logits[(len(rows), triton.cdiv(vocab, BLOCK))](
            logits, rows, slots, counts, repetition, frequency, presence, logits.stride(0), vocab,
            IN_PROMPT, BLOCK, num_warps=4,
        )  # fmt: skip


def _adjacent(rows: Tensor) -> None:
    if rows.stride(1) != 1:
        raise ValueError(f"rows of adjacent values are needed, not {tuple(rows.shape)} by {rows.stride()}")
