"""Norms, activation and rotary embedding in Triton, interpreted, against the reference."""

import inspect

import pytest
import torch
from torch import Tensor

from gllm.kernels import reference
from gllm.kernels.activation import silu_mul
from gllm.kernels.dispatch import BACKENDS, Operators, operators
from gllm.kernels.norm import add_rms_norm, rms_norm
from gllm.kernels.rotary import rotary_write

pytestmark = pytest.mark.usefixtures("interpreter")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Two units in the last place: the interpreter cuts float32 to bfloat16 instead of rounding it.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def assert_near(got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype
    torch.testing.assert_close(
        got.float(), want.float(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype], equal_nan=True
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [64, 96, 1500])
def test_rms_norm_alone_and_behind_the_residual_agrees_with_the_reference(
    size: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(size)
    x, residual, weight = (torch.randn(shape).to(dtype) for shape in ((5, size), (5, size), (size,)))
    out = torch.full((5, size), float("nan"), dtype=dtype)
    assert_near(rms_norm(x, weight, 1e-5, out), reference.rms_norm(x, weight, 1e-5), dtype)
    wide = torch.randn(5, 2 * size).to(dtype)  # rows that lie apart
    assert_near(
        rms_norm(wide[:, :size], weight, 1e-5), reference.rms_norm(wide[:, :size], weight, 1e-5), dtype
    )
    want, want_total = reference.add_rms_norm(x, residual.clone(), weight, 1e-5)
    got, got_total = add_rms_norm(x, residual, weight, 1e-5)
    assert got_total is residual
    assert_near(got_total, want_total, dtype)
    assert_near(got, want, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_silu_times_gate_agrees_with_the_reference_far_from_zero_too(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gate_up = torch.randn(3, 2 * 1500).to(dtype)
    gate_up[0, :4] = torch.tensor([-90.0, -20.0, 20.0, 90.0])
    out = torch.full((3, 1500), float("nan"), dtype=dtype)
    assert_near(silu_mul(gate_up, out), reference.silu_mul(gate_up.float()), dtype)


@pytest.mark.parametrize("normed", [False, True], ids=["plain", "normed"])
@pytest.mark.parametrize("interleaved", [False, True], ids=["neox", "interleaved"])
@pytest.mark.parametrize(("head_dim", "turned"), [(64, 64), (80, 32), (96, 96), (128, 64), (256, 256)])
def test_rotary_turns_and_writes_as_the_reference(
    head_dim: int, turned: int, interleaved: bool, normed: bool
) -> None:
    """With more heads than a program takes; a token of no location writes nothing."""
    torch.manual_seed(head_dim + turned)
    dtype = torch.bfloat16 if interleaved else torch.float16
    num_heads, num_kv_heads, num_tokens, page_size, num_pages = 11, 9, 6, 16, 3
    qkv = torch.randn(num_tokens, num_heads + 2 * num_kv_heads, head_dim).to(dtype)
    q_norm, k_norm = torch.randn(2, head_dim).to(dtype)
    angle = torch.rand(num_tokens, turned // 2) * 6
    pages = torch.full((num_pages, page_size, num_kv_heads, head_dim), float("nan"), dtype=dtype)
    locations = torch.randperm(num_pages * page_size)[:num_tokens]
    k_want, v_want, k_got, v_got = (pages.clone() for _ in range(4))
    plain = qkv.clone()
    if normed:
        heads = plain[:, : num_heads + num_kv_heads]
        weights = torch.stack([q_norm] * num_heads + [k_norm] * num_kv_heads)
        heads.copy_(reference.rms_norm(heads, torch.ones_like(q_norm), 1e-6) * weights)
    q_want = reference.rotary_write(
        plain[:-1],
        angle[:-1].cos(),
        angle[:-1].sin(),
        k_want,
        v_want,
        locations[:-1],
        interleaved=interleaved,
    )
    locations[-1] = -1
    norms = {"q_norm": q_norm, "k_norm": k_norm, "eps": 1e-6} if normed else {}
    q_got = rotary_write(
        qkv, angle.cos(), angle.sin(), k_got, v_got, locations, interleaved=interleaved, **norms
    )
    assert q_got.data_ptr() == qkv.data_ptr()
    # A normed value is rounded before it turns: one unit of its last place may turn into two.
    atol = 3 * TOLERANCE[dtype] if normed else TOLERANCE[dtype]
    for got, want in ((q_got[:-1], q_want), (k_got, k_want), (v_got, v_want)):
        torch.testing.assert_close(
            got.float(), want.float(), atol=atol, rtol=TOLERANCE[dtype], equal_nan=True
        )


def test_operators_do_nothing_with_no_tokens() -> None:
    empty = torch.empty(0, 64)
    assert rms_norm(empty, torch.ones(64), 1e-5).shape == (0, 64)
    assert silu_mul(empty).shape == (0, 32)


def test_every_backend_offers_every_operator_with_its_arguments() -> None:
    """A backend may take more, behind them: `out`, say."""
    for name, declared in vars(Operators).items():
        if not name.startswith("_") and callable(declared):
            wanted = list(inspect.signature(declared).parameters)[1:]
            for backend in BACKENDS:
                offered = getattr(operators(backend, torch.float32), name)
                given = [n for n in inspect.signature(offered).parameters if n in wanted]
                assert given == wanted, (backend, name)
