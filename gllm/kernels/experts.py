"""A mixture of gated MLPs for CUDA. Shapes and meanings: see `reference.mix_experts`.

A pair is a token and one of its experts; pair p is of token p // top_k. Pairs are ordered by expert, each
expert's run filled up to blocks of BLOCK_M, so that a program multiplies tokens of one expert alone. How
many blocks there are only the device knows; the grid is made for the most there can be, and programs
without a block end at once. Nothing is read on the host, and the same pairs come in the same order always.

    count_pairs, place_pairs: the blocks    expert_inner: silu(gate) * up    expert_outer: down
    sum_experts: each token's weighted sum, in the order of its experts

Numbers that change from step to step are not specialised on, or each would be compiled anew.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gllm.kernels.tuning import architecture

SCAN_BLOCK = 2048  # pairs looked through at once
SUM_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Tiling:
    """The size of one program of the two products."""

    block_m: int  # pairs
    block_n: int  # outputs; of gate and of up, so many each
    block_k: int
    num_warps: int
    num_stages: int


# Not timed yet: few pairs an expert read its weights once, whose stream decides; many fill the tensor cores.
FEW_PAIRS = Tiling(16, 64, 128, 4, 3)
SOME_PAIRS = Tiling(64, 128, 64, 4, 3)
MANY_PAIRS = Tiling(128, 128, 64, 8, 3)


@triton.jit(do_not_specialize=["num_pairs"])
def count_pairs(chosen, counts, num_pairs, BLOCK: tl.constexpr):
    """counts int32 [num_experts]; one program an expert."""
    expert = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    found = tl.zeros((BLOCK,), tl.int32)
    for first in tl.range(0, num_pairs, BLOCK):
        found += (tl.load(chosen + first + i, mask=first + i < num_pairs, other=-1) == expert).to(tl.int32)
    tl.store(counts + expert, tl.sum(found, 0))


@triton.jit(do_not_specialize=["num_pairs", "max_blocks"])
def place_pairs(
    chosen, counts, pairs, experts, num_pairs, max_blocks,
    NUM_EXPERTS: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """pairs int32 [max_blocks * BLOCK_M]: by expert, `num_pairs` where a block is filled up; experts int32
    [max_blocks]: whose block it is, -1 for none. One program an expert, and one for the blocks of none."""
    expert = tl.program_id(0)
    e = tl.arange(0, BLOCK_E)
    i = tl.arange(0, BLOCK)
    count = tl.load(counts + e, mask=e < NUM_EXPERTS, other=0)
    blocks = (count + BLOCK_M - 1) // BLOCK_M
    start = tl.sum(tl.where(e < expert, blocks, 0), 0)
    if expert == NUM_EXPERTS:
        for first in tl.range(start, max_blocks, BLOCK):
            tl.store(experts + first + i, i * 0 - 1, mask=first + i < max_blocks)
    else:
        end = start + tl.sum(tl.where(e == expert, blocks, 0), 0)
        for first in tl.range(start, end, BLOCK):
            tl.store(experts + first + i, i * 0 + expert, mask=first + i < end)
        at = start * BLOCK_M
        for first in tl.range(0, num_pairs, BLOCK):
            own = tl.load(chosen + first + i, mask=first + i < num_pairs, other=-1) == expert
            rank = tl.cumsum(own.to(tl.int32), 0) - 1
            tl.store(pairs + at + rank, first + i, mask=own)
            at += tl.sum(own.to(tl.int32), 0)
        m = tl.arange(0, BLOCK_M)
        tl.store(pairs + at + m, m * 0 + num_pairs, mask=at + m < end * BLOCK_M)


@triton.jit
def _dot(a, b, acc, IEEE: tl.constexpr):
    if IEEE:
        return tl.dot(a, b, acc, input_precision="ieee")
    return tl.dot(a, b, acc)


@triton.jit(do_not_specialize=["num_pairs"])
def expert_inner(
    x, gate_up, inner, pairs, experts, num_pairs,
    TOP_K: tl.constexpr, HIDDEN: tl.constexpr, SIZE: tl.constexpr, IEEE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """inner [num_pairs, SIZE] = silu(gate) * up of each pair."""
    block = tl.program_id(0)
    expert = tl.load(experts + block).to(tl.int64)
    if expert >= 0:
        pair = tl.load(pairs + block * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
        known = pair < num_pairs
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        k = tl.arange(0, BLOCK_K)
        rows = x + (pair // TOP_K)[:, None] * HIDDEN + k[None, :]
        gates = gate_up + expert * (2 * SIZE * HIDDEN) + n[None, :].to(tl.int64) * HIDDEN + k[:, None]
        gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for first in tl.range(0, HIDDEN, BLOCK_K):
            inside = first + k < HIDDEN
            taken = (n < SIZE)[None, :] & inside[:, None]
            a = tl.load(rows + first, mask=known[:, None] & inside[None, :], other=0.0)
            gate = _dot(a, tl.load(gates + first, mask=taken, other=0.0), gate, IEEE)
            up = _dot(a, tl.load(gates + SIZE * HIDDEN + first, mask=taken, other=0.0), up, IEEE)
        made = gate / (1.0 + tl.exp(-gate)) * up
        at = inner + pair[:, None] * SIZE + n[None, :]
        tl.store(at, made.to(inner.dtype.element_ty), mask=known[:, None] & (n < SIZE)[None, :])


@triton.jit(do_not_specialize=["num_pairs"])
def expert_outer(
    inner, down, outer, pairs, experts, num_pairs,
    HIDDEN: tl.constexpr, SIZE: tl.constexpr, IEEE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """outer [num_pairs, HIDDEN] = down @ inner of each pair."""
    block = tl.program_id(0)
    expert = tl.load(experts + block).to(tl.int64)
    if expert >= 0:
        pair = tl.load(pairs + block * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
        known = pair < num_pairs
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        k = tl.arange(0, BLOCK_K)
        rows = inner + pair[:, None] * SIZE + k[None, :]
        downs = down + expert * (HIDDEN * SIZE) + n[None, :].to(tl.int64) * SIZE + k[:, None]
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for first in tl.range(0, SIZE, BLOCK_K):
            inside = first + k < SIZE
            a = tl.load(rows + first, mask=known[:, None] & inside[None, :], other=0.0)
            taken = (n < HIDDEN)[None, :] & inside[:, None]
            total = _dot(a, tl.load(downs + first, mask=taken, other=0.0), total, IEEE)
        at = outer + pair[:, None] * HIDDEN + n[None, :]
        tl.store(at, total.to(outer.dtype.element_ty), mask=known[:, None] & (n < HIDDEN)[None, :])


@triton.jit
def sum_experts(outer, weights, out, TOP_K: tl.constexpr, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for number in tl.static_range(TOP_K):
        pair = token * TOP_K + number
        made = tl.load(outer + pair * HIDDEN + i, mask=i < HIDDEN, other=0.0).to(tl.float32)
        total += tl.load(weights + pair) * made
    tl.store(out + token * HIDDEN + i, total.to(out.dtype.element_ty), mask=i < HIDDEN)


def mix_experts(
    x: Tensor, gate_up: Tensor, down: Tensor, chosen: Tensor, weights: Tensor, out: Tensor | None = None
) -> Tensor:
    """See `reference.mix_experts`; all contiguous."""
    if not all(tensor.is_contiguous() for tensor in (x, gate_up, down, chosen, weights)):
        raise ValueError("mix_experts takes contiguous tensors")
    num_tokens, hidden = x.shape
    num_experts, _, size = down.shape
    top_k = chosen.shape[1]
    num_pairs = num_tokens * top_k
    out = torch.empty_like(x) if out is None else out
    if not num_pairs:
        return out
    tiling = tiling_for(num_pairs, num_experts)
    pairs, experts = _blocks(chosen, num_experts, tiling.block_m)
    inner, outer = x.new_empty((num_pairs, size)), x.new_empty((num_pairs, hidden))
    is_wide = x.dtype == torch.float32
    blocks = tiling.block_m, tiling.block_n, tiling.block_k // 2 if is_wide else tiling.block_k
    launch = {"num_warps": tiling.num_warps, "num_stages": tiling.num_stages}
    expert_inner[(len(experts), triton.cdiv(size, tiling.block_n))](
        x, gate_up, inner, pairs, experts, num_pairs, top_k, hidden, size, is_wide, *blocks, **launch
    )
    expert_outer[(len(experts), triton.cdiv(hidden, tiling.block_n))](
        inner, down, outer, pairs, experts, num_pairs, hidden, size, is_wide, *blocks, **launch
    )
    grid = num_tokens, triton.cdiv(hidden, SUM_BLOCK)
    sum_experts[grid](outer, weights, out, top_k, hidden, SUM_BLOCK, num_warps=4)
    return out


def tiling_for(num_pairs: int, num_experts: int) -> Tiling:
    """By the pairs that an expert has on average, and whether threads must hold all sums themselves.

    Hazard: another tiling adds in another order, so that the last bits of a token's result say whether its
    step was a small or a large one. Steps of decodes are small: up to 256 of them, of 8 experts in 128 each.
    """
    if num_pairs <= 16 * num_experts:
        return FEW_PAIRS
    return MANY_PAIRS if num_pairs > 128 * num_experts and architecture() >= 90 else SOME_PAIRS


def _blocks(chosen: Tensor, num_experts: int, block_m: int) -> tuple[Tensor, Tensor]:
    """`pairs` and `experts` as `place_pairs` says, for the most blocks that there can be."""
    num_pairs = chosen.numel()
    max_blocks = min(num_pairs, triton.cdiv(num_pairs, block_m) + num_experts)
    counts, experts, pairs = (
        torch.empty(length, dtype=torch.int32, device=chosen.device)
        for length in (num_experts, max_blocks, max_blocks * block_m)
    )
    count_pairs[(num_experts,)](chosen, counts, num_pairs, SCAN_BLOCK, num_warps=4)
    place_pairs[(num_experts + 1,)](
        chosen, counts, pairs, experts, num_pairs, max_blocks,
        num_experts, triton.next_power_of_2(num_experts), block_m, SCAN_BLOCK, num_warps=4,
    )  # fmt: skip
    return pairs, experts
