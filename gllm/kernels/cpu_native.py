"""The operators for a CPU that computes in float32: C functions over whole micro-batches.

Shapes and meanings are documented in `reference.py`. Those that torch does well enough are those of `cpu.py`.
Knows nothing of models, slots or steps.
"""

from typing import Any

import torch
from torch import Tensor

from gllm.kernels import cpu
from gllm.kernels.packed_linear import FORMATS as FORMATS
from gllm.kernels.packed_linear import HAS_MATRIX_UNIT, TYPES
from gllm.kernels.packed_linear import gated_linear as gated_linear
from gllm.kernels.packed_linear import linear as linear
from gllm.kernels.recording import OutOfMemoryError, Recorder, call
from gllm.kernels.reference import group_rows as group_rows

recorder = Recorder
PAGE_TYPES = {dtype: TYPES[dtype] for dtype in (torch.float32, torch.bfloat16)}  # of keys and values


def __getattr__(name: str) -> Any:
    """The operators that are not here."""
    return getattr(cpu, name)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out = torch.empty_like(x)
    call("gllm_rms_norm", x.data_ptr(), None, weight.data_ptr(), eps, len(x), x.shape[1], out.data_ptr())
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(x)
    rows, size = x.shape
    call(
        "gllm_rms_norm", residual.data_ptr(), x.data_ptr(), weight.data_ptr(), eps, rows, size, out.data_ptr()
    )
    return out, residual


def silu_mul(gate_up: Tensor) -> Tensor:
    rows, both = gate_up.shape
    out = gate_up.new_empty(rows, both // 2)
    call("gllm_silu_mul", gate_up.data_ptr(), rows, both // 2, out.data_ptr())
    return out


def norm_heads(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float, *, num_heads: int) -> None:
    tokens, all_heads, size = qkv.shape
    kv_heads = (all_heads - num_heads) // 2
    weights = q_weight.data_ptr(), k_weight.data_ptr()
    call("gllm_norm_heads", qkv.data_ptr(), *weights, eps, tokens, num_heads, kv_heads, size)


def rotary_write(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    locations: Tensor,
    *,
    interleaved: bool,
) -> Tensor:
    tokens, all_heads, size = qkv.shape
    kv_heads = k_pages.shape[2]
    heads = all_heads - 2 * kv_heads
    call(
        "gllm_rotary_write",
        qkv.data_ptr(),
        cos.data_ptr(),
        sin.data_ptr(),
        k_pages.data_ptr(),
        v_pages.data_ptr(),
        PAGE_TYPES[v_pages.dtype],
        locations.data_ptr(),
        tokens,
        heads,
        kv_heads,
        size,
        cos.shape[1],
        interleaved,
    )
    return qkv[:, :heads]


def paged_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    page_table: Tensor,
    num_computed: Tensor,
    query_start: Tensor,
    *,
    scale: float,
    groups: None = None,
) -> Tensor:
    del groups
    assert v_pages.dtype == torch.float32 or HAS_MATRIX_UNIT
    tokens, heads, size = q.shape
    out = torch.empty((tokens, heads, size))
    failed = call(
        "gllm_attention",
        q.data_ptr(),
        q.stride(0),
        k_pages.data_ptr(),
        v_pages.data_ptr(),
        PAGE_TYPES[v_pages.dtype],
        k_pages.shape[1],
        k_pages.shape[2],
        heads,
        size,
        page_table.data_ptr(),
        page_table.stride(0),
        num_computed.data_ptr(),
        query_start.data_ptr(),
        len(num_computed),
        scale,
        out.data_ptr(),
    )
    if failed:
        raise OutOfMemoryError("no memory for the packed keys and values of a prompt")
    return out


def apply_masks(logits: Tensor, rows: Tensor, bits: Tensor) -> None:
    call(
        "gllm_apply_masks",
        logits.data_ptr(),
        logits.stride(0),
        rows.data_ptr(),
        bits.data_ptr(),
        len(rows),
        logits.shape[1],
    )


def greedy(logits: Tensor) -> Tensor:
    rows, size = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64)
    call("gllm_greedy", logits.contiguous().data_ptr(), rows, size, tokens.data_ptr())
    return tokens
