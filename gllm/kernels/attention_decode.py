"""Attention of single queries over paged keys: by splits of the keys, then a merge (as in Flash-Decoding).

How many keys a split has follows from the length of its row alone, whoever shares the batch: the arithmetic
of a row, its order included, is always the same. Names and shapes: `attention_block.py`, `attention_work.py`.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from gllm.kernels.attention_block import attend, load_block, page_ids
from gllm.kernels.attention_work import Work
from gllm.kernels.overlap import let_next_begin, overlaps, wait_for_kernel_before

MERGED_SPLITS = 16  # splits that the merge reads at once


@triton.jit(do_not_specialize=["table_stride"])
def attend_splits(
    q, k_pages, v_pages, partial, logarithm, page_table, work, q_stride, table_stride, scale,
    NUM_KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, NUM_STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Queries against splits of their keys, each program every num_programs-th of (split, key head).

    Writes partial float32 [num_splits, num_heads, head_dim], the attention over the split alone, and
    logarithm float32 [num_splits, num_heads], log2 of the sum of its exponentials.
    """
    let_next_begin(OVERLAP)
    SLOT: tl.constexpr = NUM_KV_HEADS * HEAD_DIM
    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    real = (m < GROUP)[:, None] & (d < HEAD_DIM)[None, :]
    count = tl.load(work) * NUM_KV_HEADS
    wait_for_kernel_before(OVERLAP)
    for item in tl.range(tl.program_id(0), count, tl.num_programs(0), num_stages=1):
        split = item // NUM_KV_HEADS
        kv_head = item % NUM_KV_HEADS  # fastest: the heads of a token are neighbours in memory
        entry = work + 4 * (1 + split)
        token = tl.load(entry)
        row = tl.load(entry + 1)
        start = tl.load(entry + 2)
        end = tl.load(entry + 3)
        head = kv_head * GROUP + m
        q_offset = token.to(tl.int64) * q_stride + head * HEAD_DIM
        queries = tl.load(q + q_offset[:, None] + d[None, :], mask=real, other=0.0)
        pages = page_table + row.to(tl.int64) * table_stride
        k_head = k_pages + kv_head * HEAD_DIM
        v_head = v_pages + kv_head * HEAD_DIM
        position = tl.zeros((BLOCK_M,), tl.int32) + (end - 1)
        acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        most = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
        page = page_ids(pages, start, end, PAGE, BLOCK_N)
        for first in tl.range(start, end, BLOCK_N, num_stages=NUM_STAGES):
            # Read one block ahead, so that no address waits for its page while the block is due.
            following = page_ids(pages, first + BLOCK_N, end, PAGE, BLOCK_N)
            k, v = load_block(k_head, v_head, page, first, end, SLOT, PAGE, HEAD_DIM, BLOCK_D, BLOCK_N, True)
            acc, most, total = attend(queries, k, v, first, position, scale, acc, most, total, BLOCK_N, True)
            page = following
        at = split.to(tl.int64) * (NUM_KV_HEADS * GROUP) + head
        tl.store(partial + at[:, None] * HEAD_DIM + d[None, :], acc / total[:, None], mask=real)
        tl.store(logarithm + at, most + tl.log2(total), mask=m < GROUP)


@triton.jit(do_not_specialize=["first_decode"])
def merge_splits(
    partial, logarithm, out, work, first_decode,
    NUM_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """out[token, head] from the splits of one decode, in the order of its keys."""
    let_next_begin(OVERLAP)
    entry = work + 4 * (first_decode + tl.program_id(0))
    head = tl.program_id(1)
    token = tl.load(entry)
    first_split = tl.load(entry + 1)
    num_splits = tl.load(entry + 2)
    d = tl.arange(0, BLOCK_D)
    s = tl.arange(0, BLOCK_S)
    acc = tl.zeros((BLOCK_D,), tl.float32)
    most = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    wait_for_kernel_before(OVERLAP)
    for first in tl.range(0, num_splits, BLOCK_S):
        known = first + s < num_splits
        at = (first_split + first + s).to(tl.int64) * NUM_HEADS + head
        sums = tl.load(logarithm + at, mask=known, other=float("-inf"))
        both = known[:, None] & (d < HEAD_DIM)[None, :]
        part = tl.load(partial + at[:, None] * HEAD_DIM + d[None, :], mask=both, other=0.0)
        higher = tl.maximum(most, tl.max(sums, 0))
        weights = tl.exp2(sums - higher)
        kept = tl.exp2(most - higher)
        acc = acc * kept + tl.sum(part * weights[:, None], 0)
        total = total * kept + tl.sum(weights, 0)
        most = higher
    if num_splits > 0:  # else the entry pads the list
        at = (token.to(tl.int64) * NUM_HEADS + head) * HEAD_DIM
        tl.store(out + at + d, (acc / total).to(out.dtype.element_ty), mask=d < HEAD_DIM)


def decode_attention(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, work: Work, scale: float, out: Tensor
) -> None:
    """Write `out` for the decodes of `work`; `scale` in units of log2."""
    num_heads, head_dim = q.shape[1:]
    page_size, num_kv_heads = k_pages.shape[1:3]
    tiling, block_d = work.decode, triton.next_power_of_2(head_dim)
    partial = q.new_empty((work.num_splits, num_heads, head_dim), dtype=torch.float32)
    logarithm = q.new_empty((work.num_splits, num_heads), dtype=torch.float32)
    programs = work.num_splits * num_kv_heads
    if work.is_padded:  # most of the list may be empty
        programs = min(programs, tiling.resident * multiprocessors(q.device))
    overlap = overlaps()
    attend_splits[(programs,)](
        q, k_pages, v_pages, partial, logarithm, page_table, work.table,
        q.stride(0), page_table.stride(0), scale,
        num_kv_heads, num_heads // num_kv_heads, head_dim, page_size,
        block_d, tiling.block_m, tiling.block_n, tiling.num_stages, overlap,
        num_warps=tiling.num_warps, launch_pdl=overlap,
    )  # fmt: skip
    merge_splits[(work.num_decodes, num_heads)](
        partial, logarithm, out, work.table, 1 + work.num_splits,
        num_heads, head_dim, block_d, MERGED_SPLITS, overlap, num_warps=1, launch_pdl=overlap,
    )  # fmt: skip


@cache
def multiprocessors(device: torch.device) -> int:
    """Of a GPU; one for the interpreter, so that programs loop there, too."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
