"""Attention of chunks over paged keys: a program takes neighbouring queries, all heads of one key head.

Where a page holds whole blocks of keys, the copy engine of newer chips (TMA) fetches them; else threads
compute their addresses. Names and shapes: `attention_block.py`, `attention_work.py`.
"""

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from gllm.kernels.attention_block import attend, load_block, page_ids
from gllm.kernels.attention_work import Work


@triton.jit(do_not_specialize=["first_tile", "table_stride"])
def attend_tiles(
    q, k_pages, v_pages, k_blocks, v_blocks, out, page_table, work, first_tile, q_stride, table_stride, scale,
    NUM_KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, NUM_STAGES: tl.constexpr,
):  # fmt: skip
    """One tile. k_blocks, v_blocks: the pages once more, as descriptors for the copy engine, or none."""
    SLOT: tl.constexpr = NUM_KV_HEADS * HEAD_DIM
    entry = work + 4 * (first_tile + tl.program_id(0))
    kv_head = tl.program_id(1)
    first_token = tl.load(entry)
    num_tokens = tl.load(entry + 1)
    row = tl.load(entry + 2)
    before = tl.load(entry + 3)
    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    token = m // GROUP
    head = kv_head * GROUP + m % GROUP
    real = (token < num_tokens)[:, None] & (d < HEAD_DIM)[None, :]
    q_offset = (first_token + token).to(tl.int64) * q_stride + head * HEAD_DIM
    queries = tl.load(q + q_offset[:, None] + d[None, :], mask=real, other=0.0)
    pages = page_table + row.to(tl.int64) * table_stride
    k_head = k_pages + kv_head * HEAD_DIM
    v_head = v_pages + kv_head * HEAD_DIM
    position = before + token
    end = before + num_tokens
    seen_by_all = (before + 1) // BLOCK_N * BLOCK_N  # keys up to here need no mask
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    most = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    page = page_ids(pages, 0, end, PAGE, BLOCK_N) if k_blocks is not None else 0
    for first in tl.range(0, seen_by_all, BLOCK_N, num_stages=NUM_STAGES):
        if k_blocks is not None:
            # Read one block ahead, so that no address waits for its page while the block is due.
            following = page_ids(pages, first + BLOCK_N, end, PAGE, BLOCK_N)
            k = k_blocks.load([page * PAGE + first % PAGE, kv_head * HEAD_DIM])
            v = v_blocks.load([page * PAGE + first % PAGE, kv_head * HEAD_DIM])
            page = following
        else:
            ids = page_ids(pages, first, end, PAGE, BLOCK_N)  # the pipeline's first stage: see below
            k, v = load_block(k_head, v_head, ids, first, end, SLOT, PAGE, HEAD_DIM, BLOCK_D, BLOCK_N, False)
        acc, most, total = attend(queries, k, v, first, position, scale, acc, most, total, BLOCK_N, False)
    for first in tl.range(seen_by_all, end, BLOCK_N, num_stages=NUM_STAGES):
        ids = page_ids(pages, first, end, PAGE, BLOCK_N)
        k, v = load_block(k_head, v_head, ids, first, end, SLOT, PAGE, HEAD_DIM, BLOCK_D, BLOCK_N, True)
        acc, most, total = attend(queries, k, v, first, position, scale, acc, most, total, BLOCK_N, True)
    out_offset = (first_token + token).to(tl.int64) * (NUM_KV_HEADS * GROUP * HEAD_DIM) + head * HEAD_DIM
    result = (acc / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + out_offset[:, None] + d[None, :], result, mask=real)


def prefill_attention(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, work: Work, scale: float, out: Tensor
) -> None:
    """Write `out` for the tiles of `work`; `scale` in units of log2."""
    num_heads, head_dim = q.shape[1:]
    page_size, num_kv_heads = k_pages.shape[1:3]
    tiling, block_d = work.prefill, triton.next_power_of_2(head_dim)
    k_blocks = v_blocks = None
    if tiling.copy_engine and page_size % tiling.block_n == 0 and head_dim == block_d:
        k_blocks = _blocks(k_pages, [tiling.block_n, block_d])
        v_blocks = _blocks(v_pages, [tiling.block_n, block_d])
    # Ids of pages, where threads read them, are a stage of the pipeline by themselves, a block ahead.
    num_stages = tiling.num_stages + (k_blocks is None)
    # Key heads are the slower axis: programs that run at once share the keys of few heads, in the L2 cache.
    attend_tiles[(work.num_tiles, num_kv_heads)](
        q, k_pages, v_pages, k_blocks, v_blocks, out, page_table, work.table,
        1 + work.num_splits + work.num_decodes, q.stride(0), page_table.stride(0), scale,
        num_kv_heads, num_heads // num_kv_heads, head_dim, page_size,
        block_d, tiling.block_m, tiling.block_n, num_stages,
        num_warps=tiling.num_warps, maxnreg=tiling.max_registers,
    )  # fmt: skip


def _blocks(pages: Tensor, block: list[int]) -> TensorDescriptor:
    """The pages as a table of one row a token, in blocks [tokens, dimensions of a head]."""
    num_pages, page_size, num_kv_heads, head_dim = pages.shape
    size = num_kv_heads * head_dim
    return TensorDescriptor(pages, [num_pages * page_size, size], [size, 1], block)
