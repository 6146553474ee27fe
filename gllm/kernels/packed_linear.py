"""Products with weights in C: each weight is packed once, in the form that this processor multiplies fastest.

Shapes and meanings are documented in `reference.py`. Knows nothing of the other operators.
"""

import ctypes
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from gllm.kernels import large_pages
from gllm.kernels.coded_weight import STEP, Weight, coded
from gllm.kernels.formats import Formats
from gllm.kernels.native.library import library
from gllm.kernels.recording import OutOfMemoryError, call

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}  # as tile.h numbers them

native = cast(ctypes.CDLL, library())
HAS_MATRIX_UNIT = bool(native.gllm_has_matrix_unit())
PANEL = native.gllm_panel()  # outputs that lie side by side in a packed weight
LANES = PANEL // 2
# Weights are read in any of TYPES; what they multiply becomes three bfloat16 parts, or a float32.
FORMATS = Formats(weights=tuple(TYPES), packed_itemsize=6 if HAS_MATRIX_UNIT else 4)


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """x @ weight.T * scale + bias; with is_gated silu of the first half of the outputs times the second half.

    weight: panels of PANEL outputs, [panels, in, PANEL], or what the matrix unit takes; bias, scale: float32
    [panels * PANEL] or none.
    """

    weight: Tensor | Weight
    stored_dtype: torch.dtype  # of the weight, one of TYPES
    bias: Tensor | None
    scale: Tensor | None
    num_outputs: int
    is_gated: bool
    is_rounded: bool  # x, to bfloat16; on the matrix unit alone

    def __call__(self, x: Tensor) -> Tensor:
        rows, size = x.shape
        y = torch.empty((rows, self.num_outputs // 2 if self.is_gated else self.num_outputs))
        if isinstance(self.weight, Tensor):
            multiply, address = "gllm_linear", self.weight.data_ptr()
        else:
            multiply = "gllm_linear_amx_rounded" if self.is_rounded else "gllm_linear_amx"
            address = self.weight.address
        failed = call(
            multiply,
            x.data_ptr(),
            address,
            TYPES[self.stored_dtype],
            None if self.bias is None else self.bias.data_ptr(),
            None if self.scale is None else self.scale.data_ptr(),
            y.data_ptr(),
            rows,
            size,
            self.num_outputs,
            self.is_gated,
        )
        if failed:
            raise OutOfMemoryError(f"no memory to pack {rows} rows of {size}")
        return y


def linear(weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> PackedLinear:
    return packed(weight, bias, scale, is_gated=False, on_matrix_unit=HAS_MATRIX_UNIT)


def gated_linear(weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> PackedLinear:
    return packed(weight, bias, scale, is_gated=True, on_matrix_unit=HAS_MATRIX_UNIT)


def packed(
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    *,
    is_gated: bool,
    on_matrix_unit: bool,
    is_rounded: bool = False,
) -> PackedLinear:
    """weight: [out, in]; bias, scale: [out] or none. is_rounded: on the matrix unit, and not float32."""
    assert not is_rounded or (on_matrix_unit and weight.dtype != torch.float32)

    def by_output(column: Tensor | None) -> Tensor | None:
        return None if column is None else _panels(column.float()[:, None], is_gated)[..., 0].reshape(-1)

    made: Tensor | Weight
    if not on_matrix_unit:  # of 16 bits the halves are interleaved, as linear.c wants them
        order = (0, 3, 2, 1) if weight.dtype == torch.bfloat16 else (0, 3, 1, 2)
        made = _copied(_panels(weight, is_gated).permute(order))
    elif weight.dtype == torch.int8:
        padded = F.pad(_panels(weight, is_gated), (0, -weight.shape[1] % STEP))
        made = Weight(_copied(padded.reshape(*padded.shape[:-1], -1, 2).permute(0, 3, 1, 2, 4)))
    else:
        num_panels = -(-len(weight) // PANEL)
        made = coded(weight, TYPES[weight.dtype], num_panels, is_gated=is_gated)
    columns = by_output(bias), by_output(scale)
    return PackedLinear(made, weight.dtype, *columns, len(weight), is_gated, is_rounded)


def _copied(panels: Tensor) -> Tensor:
    room = large_pages.take(panels.nbytes)
    return room.view(panels.dtype).view(panels.shape).copy_(panels)


def _panels(rows: Tensor, is_gated: bool) -> Tensor:
    """[panels, 2, LANES, in] of [out, in]: both halves of a panel, zeros behind the last row.

    Gates and what they let through are the halves of one panel.
    """
    parts = rows.chunk(2) if is_gated else (rows,)
    step = LANES if is_gated else PANEL
    missing = -len(parts[0]) % step
    if missing:
        empty = rows.new_zeros(missing, rows.shape[1])
        parts = tuple(torch.cat([part, empty]) for part in parts)
        rows = torch.cat(parts)
    if is_gated:
        return rows.view(2, -1, LANES, rows.shape[1]).transpose(0, 1)
    return rows.view(-1, 2, LANES, rows.shape[1])
