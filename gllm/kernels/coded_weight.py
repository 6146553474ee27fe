"""Weights for the matrix unit: those of 16 and 32 bits in fewer, without loss.

The form and its source stand in `native/coded.h`. Knows nothing of what weights are multiplied with.
"""

import ctypes
from typing import cast

import torch
from torch import Tensor

from gllm.kernels import large_pages
from gllm.kernels.native.library import library

STEP = 32  # inputs of a block, which the unit takes at once
TABLE_BYTES = 16  # of a block
LINE_BYTES = 64  # in which the starts of blocks are counted

native = cast(ctypes.CDLL, library())


class Weight(ctypes.Structure):
    """`Weight` of coded.h, with the memory that it points to."""

    _fields_ = (("blocks", ctypes.c_void_p), ("tables", ctypes.c_void_p), ("starts", ctypes.c_void_p))

    def __init__(self, blocks: Tensor, tables: Tensor | None = None, starts: Tensor | None = None) -> None:
        kept = blocks, tables, starts
        super().__init__(*(None if each is None else each.data_ptr() for each in kept))
        self.kept = kept

    @property
    def address(self) -> int:
        return ctypes.addressof(self)

    @property
    def num_bytes(self) -> int:
        return sum(each.nbytes for each in self.kept if each is not None)


def coded(weight: Tensor, weight_type: int, num_panels: int, *, is_gated: bool) -> Weight:
    """weight: float32 or bfloat16 [out, in]; num_panels: that its rows fill."""
    rows = weight.contiguous()
    num_outputs, size = rows.shape
    num_blocks = num_panels * -(-size // STEP)
    starts = large_pages.take(4 * (num_blocks + 1))
    tables = large_pages.take(TABLE_BYTES * num_blocks)

    def code(tables_at: int | None, blocks_at: int | None) -> None:
        native.gllm_code_weight(
            rows.data_ptr(),
            weight_type,
            num_outputs,
            size,
            is_gated,
            starts.data_ptr(),
            tables_at,
            blocks_at,
        )

    code(None, None)  # the length of each block alone, of which the place of the next one follows
    blocks = large_pages.take(LINE_BYTES * int(starts.view(torch.uint32)[-1]))
    code(tables.data_ptr(), blocks.data_ptr())
    return Weight(blocks, tables, starts)
