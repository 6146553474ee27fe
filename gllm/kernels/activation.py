"""SiLU times gate for CUDA. Shapes and meanings: see `reference.py`; computed in float32, rounded once."""

import triton
import triton.language as tl
from torch import Tensor

from gllm.kernels.overlap import let_next_begin, overlaps, wait_for_kernel_before

BLOCK = 1024


@triton.jit
def silu_mul_blocks(gate_up, out, SIZE: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    """BLOCK values of one row; a row of gate_up is the gate's SIZE values, then as many to multiply."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    let_next_begin(OVERLAP)
    wait_for_kernel_before(OVERLAP)
    gate = tl.load(gate_up + row * (2 * SIZE) + i, mask=i < SIZE, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * (2 * SIZE) + SIZE + i, mask=i < SIZE, other=0.0).to(tl.float32)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * SIZE + i, result.to(out.dtype.element_ty), mask=i < SIZE)


def silu_mul(gate_up: Tensor, out: Tensor | None = None) -> Tensor:
    """gate_up: [num_tokens, 2 * size], contiguous."""
    if not gate_up.is_contiguous():
        raise ValueError("silu_mul takes a contiguous tensor")
    num_tokens, size = len(gate_up), gate_up.shape[1] // 2
    out = gate_up.new_empty((num_tokens, size)) if out is None else out
    if num_tokens:
        overlap = overlaps()
        silu_mul_blocks[(num_tokens, triton.cdiv(size, BLOCK))](
            gate_up, out, size, BLOCK, overlap, num_warps=4, launch_pdl=overlap
        )
    return out
