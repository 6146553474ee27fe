"""RMS norm for CUDA, alone or behind the residual addition. Shapes and meanings: see `reference.py`.

One program a row, the whole row in registers: it is read once and written once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gllm.kernels.overlap import let_next_begin, overlaps, wait_for_kernel_before


@triton.jit
def weighted(wide, shrink, weight, dtype: tl.constexpr):
    """wide * shrink * weight with Llama's rounding: to `dtype` before the weight, and again behind it."""
    return ((wide * shrink).to(dtype).to(tl.float32) * weight).to(dtype)


@triton.jit
def rms_norm_rows(
    x, weight, out, stride, eps, SIZE: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr
):  # fmt: skip
    """out[row] = the norm of x[row], for rows `stride` elements apart."""
    let_next_begin(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    factor = tl.load(weight + i, mask=i < SIZE, other=0.0).to(tl.float32)
    wait_for_kernel_before(OVERLAP)
    wide = tl.load(x + row * stride + i, mask=i < SIZE, other=0.0).to(tl.float32)
    shrink = tl.rsqrt(tl.sum(wide * wide, 0) / SIZE + eps)
    tl.store(out + row * SIZE + i, weighted(wide, shrink, factor, out.dtype.element_ty), mask=i < SIZE)


@triton.jit
def add_rms_norm_rows(
    x, residual, weight, out, eps, SIZE: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr
):  # fmt: skip
    """residual[row] += x[row], rounded to its dtype; out[row] = the norm of that."""
    let_next_begin(OVERLAP)
    row = tl.program_id(0).to(tl.int64) * SIZE
    i = tl.arange(0, BLOCK)
    factor = tl.load(weight + i, mask=i < SIZE, other=0.0).to(tl.float32)
    wait_for_kernel_before(OVERLAP)
    wide = tl.load(x + row + i, mask=i < SIZE, other=0.0).to(tl.float32)
    wide += tl.load(residual + row + i, mask=i < SIZE, other=0.0).to(tl.float32)
    total = wide.to(residual.dtype.element_ty)
    tl.store(residual + row + i, total, mask=i < SIZE)
    wide = total.to(tl.float32)
    shrink = tl.rsqrt(tl.sum(wide * wide, 0) / SIZE + eps)
    tl.store(out + row + i, weighted(wide, shrink, factor, out.dtype.element_ty), mask=i < SIZE)


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor | None = None) -> Tensor:
    """x: [num_rows, size], each row's values adjacent; the result is contiguous."""
    if x.dim() != 2 or x.stride(1) != 1:
        raise ValueError(f"rms_norm takes rows of adjacent values, not {tuple(x.shape)} by {x.stride()}")
    out = x.new_empty(x.shape) if out is None else out
    if len(x):
        size = x.shape[1]
        block = triton.next_power_of_2(size)
        overlap = overlaps()
        rms_norm_rows[(len(x),)](
            x, weight, out, x.stride(0), eps, size, block, overlap,
            num_warps=_num_warps(block), launch_pdl=overlap,
        )  # fmt: skip
    return out


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x, residual: [num_rows, size], contiguous; `residual` becomes the total. `out` may be `x`."""
    if not (x.is_contiguous() and residual.is_contiguous()):
        raise ValueError("add_rms_norm takes contiguous tensors")
    out = torch.empty_like(x) if out is None else out
    if len(x):
        size = x.shape[1]
        block = triton.next_power_of_2(size)
        overlap = overlaps()
        add_rms_norm_rows[(len(x),)](
            x, residual, weight, out, eps, size, block, overlap,
            num_warps=_num_warps(block), launch_pdl=overlap,
        )  # fmt: skip
    return out, residual


def _num_warps(block: int) -> int:
    """A thread takes 8 values: 16 bytes of bfloat16, one load."""
    return min(max(block // (32 * 8), 1), 16)
