"""Products of few rows with a weight, for CUDA: bound by reading the weight, hence by what is under way.

Each program owns BLOCK_OUT outputs of all rows and adds along the inputs in one order, 16 at a time as the
tensor cores do: a row's bits depend neither on the number of rows nor on the tiling, and are those of
cuBLAS without split sums, which computes larger products (`bench.device_check` compares them).
"""

from dataclasses import dataclass

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from gllm.kernels.overlap import let_next_begin, overlaps, wait_for_kernel_before
from gllm.kernels.tuning import ProductTiling, product_tiling

FEWEST_COLUMNS = 8  # of a product of the tensor cores


@triton.jit(do_not_specialize=["num_rows"])
def multiply_few_rows(
    x, weight, bias, out, num_rows, x_stride, num_out, num_in,
    BLOCK_OUT: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_IN: tl.constexpr, NUM_STAGES: tl.constexpr,
    WHOLE_BLOCKS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """out[r, o] = sum of x[r, i] * weight[o, i] + bias[o]; WHOLE_BLOCKS: BLOCK_IN divides num_in."""
    o = tl.program_id(0).to(tl.int64) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    r = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    i = tl.arange(0, BLOCK_IN)
    # Outputs behind the last read the last one's weights and are not written.
    w_at = weight + tl.minimum(o, num_out - 1)[:, None] * num_in + i[None, :]
    x_at = x + r[None, :] * x_stride + i[:, None]
    real = (r < num_rows)[None, :]
    acc = tl.zeros((BLOCK_OUT, BLOCK_ROWS), tl.float32)
    wait_for_kernel_before(OVERLAP)
    for first in tl.range(0, num_in, BLOCK_IN, num_stages=NUM_STAGES):
        if WHOLE_BLOCKS:
            w = tl.load(w_at + first, eviction_policy="evict_first")
            inputs = tl.load(x_at + first, mask=real, other=0.0)
        else:
            w = tl.load(w_at + first, mask=(first + i < num_in)[None, :], other=0.0)
            inputs = tl.load(x_at + first, mask=real & (first + i < num_in)[:, None], other=0.0)
        acc = tl.dot(w, inputs, acc)
    # Not sooner: programs of the next product would settle two to a multiprocessor, wherever one became free.
    let_next_begin(OVERLAP)
    if bias is not None:
        acc += tl.load(bias + o, mask=o < num_out, other=0.0).to(tl.float32)[:, None]
    out_at = out + r[None, :] * num_out + o[:, None]
    tl.store(out_at, acc.to(out.dtype.element_ty), mask=real & (o < num_out)[:, None])


def few_rows_linear(x: Tensor, weight: Tensor, bias: Tensor | None, tiling: ProductTiling) -> Tensor:
    """x @ weight.T + bias. x: [rows, in], each row's values adjacent; weight: [out, in], contiguous."""
    rows, (num_out, num_in) = len(x), weight.shape
    out = x.new_empty((rows, num_out))
    block_rows = max(triton.next_power_of_2(rows), FEWEST_COLUMNS)
    overlap = overlaps()
    multiply_few_rows[(triton.cdiv(num_out, tiling.block_out),)](
        x, weight, bias, out, rows, x.stride(0), num_out, num_in,
        tiling.block_out, block_rows, tiling.block_in, tiling.num_stages,
        num_in % tiling.block_in == 0, overlap, num_warps=tiling.num_warps, launch_pdl=overlap,
    )  # fmt: skip
    return out


@dataclass(frozen=True, slots=True)
class Linear:
    """`linear.PlainLinear` for CUDA: a product of our own where that is faster."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        tiling = product_tiling(len(self.weight))
        if tiling is None or not 0 < len(x) <= tiling.most_rows or x.stride(1) != 1:
            return F.linear(x, self.weight, self.bias)
        return few_rows_linear(x, self.weight, self.bias, tiling)
