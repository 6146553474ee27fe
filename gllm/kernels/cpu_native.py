"""The operators for a CPU that computes in float32: C functions over whole micro-batches.

Shapes and meanings are documented in `reference.py`. Those that torch does well enough are those of `cpu.py`.
Knows nothing of models, slots or steps.
"""

import ctypes
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from gllm.kernels import cpu
from gllm.kernels.native.library import library
from gllm.kernels.reference import group_rows as group_rows

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}  # as linear.c numbers them
STORED_DTYPES = tuple(TYPES)  # of weights: what memory is read for, not what is computed in
PACKS_WEIGHTS = True

native = cast(ctypes.CDLL, library())
PANEL = native.gllm_panel()  # outputs that lie side by side in a packed weight
LANES = PANEL // 2


def __getattr__(name: str) -> Any:
    """The operators that are not here."""
    return getattr(cpu, name)


class OutOfMemoryError(MemoryError):
    """The workspace of a step could not be allocated."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out = torch.empty_like(x)
    native.gllm_rms_norm(x.data_ptr(), None, weight.data_ptr(), eps, len(x), x.shape[1], out.data_ptr())
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(x)
    rows, size = x.shape
    native.gllm_rms_norm(
        residual.data_ptr(), x.data_ptr(), weight.data_ptr(), eps, rows, size, out.data_ptr()
    )
    return out, residual


def silu_mul(gate_up: Tensor) -> Tensor:
    rows, both = gate_up.shape
    out = gate_up.new_empty(rows, both // 2)
    native.gllm_silu_mul(gate_up.data_ptr(), rows, both // 2, out.data_ptr())
    return out


def norm_heads(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float, *, num_heads: int) -> None:
    tokens, all_heads, size = qkv.shape
    kv_heads = (all_heads - num_heads) // 2
    weights = q_weight.data_ptr(), k_weight.data_ptr()
    native.gllm_norm_heads(qkv.data_ptr(), *weights, eps, tokens, num_heads, kv_heads, size)


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
    native.gllm_rotary_write(
        qkv.data_ptr(),
        cos.data_ptr(),
        sin.data_ptr(),
        k_pages.data_ptr(),
        v_pages.data_ptr(),
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
    tokens, heads, size = q.shape
    out = torch.empty((tokens, heads, size))
    failed = native.gllm_attention(
        q.data_ptr(),
        q.stride(0),
        k_pages.data_ptr(),
        v_pages.data_ptr(),
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


def greedy(logits: Tensor) -> Tensor:
    rows, size = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64)
    native.gllm_greedy(logits.contiguous().data_ptr(), rows, size, tokens.data_ptr())
    return tokens


# ---- products with weights --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """x @ weight.T * scale + bias; with is_gated silu of the first half of the outputs times the second half.

    weight: panels of PANEL outputs, [panels, in, PANEL]; bias, scale: float32 [panels * PANEL] or none.
    """

    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None
    num_outputs: int
    is_gated: bool

    def __call__(self, x: Tensor) -> Tensor:
        rows, size = x.shape
        y = torch.empty((rows, self.num_outputs // 2 if self.is_gated else self.num_outputs))
        failed = native.gllm_linear(
            x.data_ptr(),
            self.weight.data_ptr(),
            TYPES[self.weight.dtype],
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
    return _packed(weight, bias, scale, is_gated=False)


def gated_linear(weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> PackedLinear:
    return _packed(weight, bias, scale, is_gated=True)


def _packed(weight: Tensor, bias: Tensor | None, scale: Tensor | None, *, is_gated: bool) -> PackedLinear:
    def by_output(column: Tensor | None) -> Tensor | None:
        return None if column is None else _panels(column.float()[:, None], is_gated)[..., 0].reshape(-1)

    # [panels, in, 2, LANES]; of 16 bits the halves are interleaved, as linear.c wants them.
    order = (0, 3, 2, 1) if weight.dtype == torch.bfloat16 else (0, 3, 1, 2)
    panels = _panels(weight, is_gated).permute(order)
    # numpy asks the system for large pages, so that a weight is read with few look-ups of addresses.
    room = np.empty(panels.numel() * weight.itemsize, np.uint8)
    packed = torch.from_numpy(room).view(weight.dtype).view(panels.shape).copy_(panels)
    return PackedLinear(packed, by_output(bias), by_output(scale), len(weight), is_gated)


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
