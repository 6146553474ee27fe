"""Coded weights hold every bit of the weights, as their format says; and what they take."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from gllm.kernels.native.library import library

if library() is None:
    pytest.skip("no C compiler here; then weights are not coded", allow_module_level=True)

from gllm.kernels import coded_weight, packed_linear

if not packed_linear.HAS_MATRIX_UNIT:
    pytest.skip("no AMX here; then weights are not coded", allow_module_level=True)

PANEL, STEP, GROUPS, LINE = 32, 32, 8, 64
TYPES = [torch.float32, torch.bfloat16]


def coded(weight: Tensor, *, is_gated: bool = False) -> coded_weight.Weight:
    made = packed_linear.packed(weight, None, None, is_gated=is_gated, on_matrix_unit=True).weight
    assert isinstance(made, coded_weight.Weight)
    return made


def decoded(made: coded_weight.Weight, dtype: torch.dtype, num_steps: int) -> npt.NDArray[np.uint32]:
    """Bits of [panels, 2 halves, 16 outputs, inputs], as native/coded.h documents the form; of bfloat16 as
    upper halves."""
    blocks, tables, starts = (each.numpy() for each in made.kept if each is not None)
    lines, bounds, table_of = blocks.reshape(-1, LINE), starts.view(np.uint32), tables.reshape(-1, 16)
    pairs = np.zeros((len(table_of), 2, 16, STEP // 2, 2), np.uint32)
    for n, table in enumerate(table_of):
        for g, piece in enumerate(np.split(lines[bounds[n] : bounds[n + 1]], GROUPS)):
            is_plain = len(piece) % 2 == 0
            codes = piece[0]
            upper = piece[:2] if is_plain else np.stack([table[codes & 15], table[codes >> 4]])
            lower = piece[1 + is_plain : 3 + is_plain]
            words = (upper.astype(np.uint32) << 8 | lower).reshape(2, 4, 2, 8)  # pair, quarter, half
            rows = words.transpose(0, 2, 1, 3).reshape(2, 2, 16, 2) << 16  # pair, half, output, input
            if dtype == torch.float32:
                rows |= piece[-4:].view(np.uint16).reshape(2, 2, 16, 2)
            pairs[n, :, :, 2 * g : 2 * g + 2] = rows.transpose(1, 2, 0, 3)
    by_step = pairs.reshape(-1, num_steps, 2, 16, STEP)
    return by_step.transpose(0, 2, 3, 1, 4).reshape(-1, 2, 16, num_steps * STEP)


def expected(weight: Tensor, *, is_gated: bool) -> npt.NDArray[np.uint32]:
    bits = weight.float().numpy().view(np.uint32)
    parts = np.split(bits, 2) if is_gated else [bits]
    size, step = bits.shape[1], 16 if is_gated else PANEL
    padded = [np.pad(part, ((0, -len(part) % step), (0, -size % STEP))) for part in parts]
    if is_gated:
        return np.stack([part.reshape(-1, 16, part.shape[1]) for part in padded], axis=1)
    return padded[0].reshape(-1, 2, 16, padded[0].shape[1])


def weights(kind: str, num_outputs: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(num_outputs, size, generator=generator) * 0.02
    if kind == "any bits":  # exponents of all sizes, infinities and what is no number
        bits = torch.randint(-(1 << 31), 1 << 31, (num_outputs, size), generator=generator)
        weight = bits.to(torch.int32).view(torch.float32)
    if kind == "some wide":  # one block in a few is kept plain
        weight[::41, ::53] *= 2.0 ** torch.arange(-60, 60)[: weight[::41, ::53].shape[1]]
    if kind == "pruned":
        weight *= torch.rand(num_outputs, size, generator=generator) < 0.2
    return weight


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", ["like a model's", "any bits", "some wide", "pruned"])
@pytest.mark.parametrize(
    ("num_outputs", "size", "is_gated"), [(64, 64, False), (70, 33, False), (70, 600, True), (2, 1, True)]
)
def test_every_bit_comes_back(
    kind: str, num_outputs: int, size: int, is_gated: bool, dtype: torch.dtype
) -> None:
    weight = weights(kind, num_outputs, size)
    if dtype == torch.bfloat16:
        weight = (weight.view(torch.int32) >> 16).to(torch.int16).view(torch.bfloat16)  # bits, not numbers
    bits = decoded(coded(weight, is_gated=is_gated), dtype, -(-size // STEP))
    np.testing.assert_array_equal(bits, expected(weight, is_gated=is_gated))


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 28), (torch.bfloat16, 12)])
def test_a_weight_takes_four_bits_less(dtype: torch.dtype, bits: int) -> None:
    weight = weights("like a model's", 512, 512).to(dtype)
    assert coded(weight).num_bytes * 8 / weight.numel() < bits + 0.3  # tables and a few plain blocks


@pytest.mark.parametrize("dtype", TYPES)
def test_at_worst_a_weight_takes_a_hundredth_more(dtype: torch.dtype) -> None:
    bits = torch.randint(-(1 << 15), 1 << 15, (512, 512 * dtype.itemsize // 2), generator=torch.Generator())
    weight = bits.to(torch.int16).view(dtype)
    assert weight.nbytes < coded(weight).num_bytes < 1.011 * weight.nbytes


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [1, 5, 16, 17, 40])
def test_plain_blocks_multiply_as_coded_ones(rows: int, dtype: torch.dtype) -> None:
    """One weight of another size makes a block plain; where it meets a zero, the sums are the same."""
    weight = weights("like a model's", 96, 256).to(dtype)
    wide = weight.clone()
    wide[::32, ::32] = 1.0
    wide[::32, ::32] *= 2.0 ** (torch.arange(8) * 9 - 30).to(dtype)
    wide[1::32, ::32] = 2.0**-20
    wide[2::32, ::32] = -(2.0**40)
    wide[3::32, ::32] = 2.0**60
    wide[4::32, ::32] = -(2.0**-40)
    x = torch.randn(rows, 256, generator=torch.Generator().manual_seed(1))
    x[:, ::32] = 0.0
    assert coded(wide).num_bytes > coded(weight).num_bytes
    multiply, multiply_wide = (
        packed_linear.packed(each, None, None, is_gated=False, on_matrix_unit=True) for each in (weight, wide)
    )
    torch.testing.assert_close(multiply_wide(x), multiply(x), atol=0.0, rtol=0.0)
