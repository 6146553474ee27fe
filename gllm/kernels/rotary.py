"""Rotary embedding fused with the write of keys and values into their pages, for CUDA.

Shapes and meanings: see `reference.rotary_write`. Queries and keys may be normed head by head before
they turn (Qwen3). A program takes up to BLOCK_H heads of one token: of its queries, or of its keys
with their values. A head is held as the two members of each turned pair, `first` and `second`, and
`rest`, the dimensions that do not turn.

Constexpr names: PAIRS is rotary_dim / 2, BLOCK_P that padded to a power of two; REST is head_dim less
rotary_dim, BLOCK_R likewise.
"""

import triton
import triton.language as tl
from torch import Tensor

from gllm.kernels.norm import weighted
from gllm.kernels.overlap import let_next_begin, overlaps, wait_for_kernel_before

BLOCK_H = 8


@triton.jit
def _load_pairs(at, known, PAIRS: tl.constexpr, BLOCK_P: tl.constexpr, INTERLEAVED: tl.constexpr):
    """Both members of the pairs of heads at pointers [heads, 1], float32 [heads, BLOCK_P] each."""
    if INTERLEAVED:
        j = tl.arange(0, 2 * BLOCK_P)[None, :]
        both = tl.load(at + j, mask=known & (j < 2 * PAIRS), other=0.0).to(tl.float32)
        first, second = tl.split(tl.reshape(both, (both.shape[0], BLOCK_P, 2)))
    else:
        i = tl.arange(0, BLOCK_P)[None, :]
        first = tl.load(at + i, mask=known & (i < PAIRS), other=0.0).to(tl.float32)
        second = tl.load(at + PAIRS + i, mask=known & (i < PAIRS), other=0.0).to(tl.float32)
    return first, second


@triton.jit
def _store_pairs(
    at, first, second, known, PAIRS: tl.constexpr, BLOCK_P: tl.constexpr, INTERLEAVED: tl.constexpr
):
    dtype: tl.constexpr = at.dtype.element_ty
    if INTERLEAVED:
        j = tl.arange(0, 2 * BLOCK_P)[None, :]
        both = tl.reshape(tl.join(first, second), (first.shape[0], 2 * BLOCK_P))
        tl.store(at + j, both.to(dtype), mask=known & (j < 2 * PAIRS))
    else:
        i = tl.arange(0, BLOCK_P)[None, :]
        tl.store(at + i, first.to(dtype), mask=known & (i < PAIRS))
        tl.store(at + PAIRS + i, second.to(dtype), mask=known & (i < PAIRS))


@triton.jit
def _turn(
    source, target, known, written, weight, cos, sin, eps,
    PAIRS: tl.constexpr, BLOCK_P: tl.constexpr, REST: tl.constexpr, BLOCK_R: tl.constexpr,
    INTERLEAVED: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Norm (if NORM) and rotate the heads at `source`; write those `written` to `target`."""
    dtype: tl.constexpr = source.dtype.element_ty
    first, second = _load_pairs(source, known, PAIRS, BLOCK_P, INTERLEAVED)
    r = tl.arange(0, BLOCK_R)[None, :]
    rest = tl.load(source + 2 * PAIRS + r, mask=known & (r < REST), other=0.0)
    if NORM:
        wide = rest.to(tl.float32)
        squares = tl.sum(first * first, 1) + tl.sum(second * second, 1) + tl.sum(wide * wide, 1)
        shrink = tl.rsqrt(squares / (2 * PAIRS + REST) + eps)[:, None]
        one_head = tl.zeros((1, 1), tl.int32)
        w_first, w_second = _load_pairs(weight + one_head, one_head == 0, PAIRS, BLOCK_P, INTERLEAVED)
        w_rest = tl.load(weight + 2 * PAIRS + r, mask=r < REST, other=0.0).to(tl.float32)
        first = weighted(first, shrink, w_first, dtype).to(tl.float32)
        second = weighted(second, shrink, w_second, dtype).to(tl.float32)
        rest = weighted(wide, shrink, w_rest, dtype)
    new_first = first * cos - second * sin
    new_second = second * cos + first * sin
    _store_pairs(target, new_first, new_second, written, PAIRS, BLOCK_P, INTERLEAVED)
    tl.store(target + 2 * PAIRS + r, rest.to(target.dtype.element_ty), mask=written & (r < REST))


@triton.jit
def rotary_write_heads(
    qkv, cos, sin, k_pages, v_pages, locations, q_weight, k_weight, eps, token_stride,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    PAIRS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr,
    INTERLEAVED: tl.constexpr, NORM: tl.constexpr, BLOCK_H: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    let_next_begin(OVERLAP)
    REST: tl.constexpr = HEAD_DIM - 2 * PAIRS
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    q_blocks: tl.constexpr = (NUM_HEADS + BLOCK_H - 1) // BLOCK_H
    i = tl.arange(0, BLOCK_P)[None, :]
    turn_cos = tl.load(cos + token * PAIRS + i, mask=i < PAIRS, other=0.0)
    turn_sin = tl.load(sin + token * PAIRS + i, mask=i < PAIRS, other=0.0)
    h = tl.arange(0, BLOCK_H)[:, None]
    wait_for_kernel_before(OVERLAP)
    if block < q_blocks:
        head = block * BLOCK_H + h
        queries = qkv + token * token_stride + head * HEAD_DIM
        known = head < NUM_HEADS
        _turn(
            queries, queries, known, known, q_weight, turn_cos, turn_sin, eps,
            PAIRS, BLOCK_P, REST, BLOCK_R, INTERLEAVED, NORM,
        )  # fmt: skip
    else:
        head = (block - q_blocks) * BLOCK_H + h
        keys = qkv + token * token_stride + (NUM_HEADS + head) * HEAD_DIM
        known = head < NUM_KV_HEADS
        location = tl.load(locations + token)
        written = known & (location >= 0)
        offset = (location * NUM_KV_HEADS + head) * HEAD_DIM
        _turn(
            keys, k_pages + offset, known, written, k_weight, turn_cos, turn_sin, eps,
            PAIRS, BLOCK_P, REST, BLOCK_R, INTERLEAVED, NORM,
        )  # fmt: skip
        d = tl.arange(0, BLOCK_D)[None, :]
        values = tl.load(keys + NUM_KV_HEADS * HEAD_DIM + d, mask=known & (d < HEAD_DIM), other=0.0)
        tl.store(v_pages + offset + d, values.to(v_pages.dtype.element_ty), mask=written & (d < HEAD_DIM))


def rotary_write(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    locations: Tensor,
    *,
    interleaved: bool,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 0.0,
) -> Tensor:
    """See `reference.rotary_write`; the key heads of `qkv` stay as they are.

    q_norm, k_norm: [head_dim], both or none: weights of an RMS norm of each head before it turns.
    A location below 0 writes nothing: tokens that pad a graph.
    """
    num_tokens, heads_in_all, head_dim = qkv.shape
    num_kv_heads, pairs = k_pages.shape[2], cos.shape[1]
    num_heads = heads_in_all - 2 * num_kv_heads
    contiguous = cos, sin, k_pages, v_pages, locations
    if qkv.stride()[1:] != (head_dim, 1) or not all(tensor.is_contiguous() for tensor in contiguous):
        raise ValueError("rotary_write takes contiguous tensors; the tokens of qkv may lie apart")
    if (q_norm is None) != (k_norm is None):
        raise ValueError("rotary_write norms queries and keys, or neither")
    if num_tokens:
        overlap = overlaps()
        blocks = triton.cdiv(num_heads, BLOCK_H) + triton.cdiv(num_kv_heads, BLOCK_H)
        rotary_write_heads[(num_tokens, blocks)](
            qkv, cos, sin, k_pages, v_pages, locations, q_norm, k_norm, eps, qkv.stride(0),
            num_heads, num_kv_heads, head_dim, triton.next_power_of_2(head_dim),
            pairs, triton.next_power_of_2(pairs), triton.next_power_of_2(max(head_dim - 2 * pairs, 1)),
            interleaved, q_norm is not None, BLOCK_H, overlap, num_warps=2, launch_pdl=overlap,
        )  # fmt: skip
    return qkv[:, :num_heads]
