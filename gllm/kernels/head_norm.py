"""RMS norm of each head of queries and keys by itself, for CUDA. Shapes and meanings: see `reference.py`.

A program takes up to BLOCK_H heads of one token, each in registers. `rotary_write` can do the same on its
way; this operator is for decoders that call the two apart.
"""

import triton
import triton.language as tl
from torch import Tensor

from gllm.kernels.norm import weighted

BLOCK_H = 8


@triton.jit
def norm_heads_rows(
    qkv, q_weight, k_weight, eps, token_stride,
    NUM_HEADS: tl.constexpr, NUM_NORMED: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """The first NUM_HEADS heads of a token are queries, those up to NUM_NORMED keys."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    known = (head < NUM_NORMED) & (d < HEAD_DIM)
    at = qkv + token * token_stride + head * HEAD_DIM + d
    wide = tl.load(at, mask=known, other=0.0).to(tl.float32)
    of_queries = tl.load(q_weight + d, mask=d < HEAD_DIM, other=0.0).to(tl.float32)
    of_keys = tl.load(k_weight + d, mask=d < HEAD_DIM, other=0.0).to(tl.float32)
    factor = tl.where(head < NUM_HEADS, of_queries, of_keys)
    shrink = tl.rsqrt(tl.sum(wide * wide, 1) / HEAD_DIM + eps)[:, None]
    tl.store(at, weighted(wide, shrink, factor, qkv.dtype.element_ty), mask=known)


def norm_heads(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float, *, num_heads: int) -> None:
    """See `reference.norm_heads`. The tokens of qkv may lie apart, the values of one may not."""
    num_tokens, heads_in_all, head_dim = qkv.shape
    if qkv.stride()[1:] != (head_dim, 1):
        raise ValueError(f"norm_heads takes tokens of adjacent heads, not {qkv.stride()}")
    num_normed = num_heads + (heads_in_all - num_heads) // 2
    if num_tokens:
        norm_heads_rows[(num_tokens, triton.cdiv(num_normed, BLOCK_H))](
            qkv, q_weight, k_weight, eps, qkv.stride(0),
            num_heads, num_normed, head_dim, triton.next_power_of_2(head_dim), BLOCK_H, num_warps=2,
        )  # fmt: skip
