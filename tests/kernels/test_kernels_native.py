"""The C operators against the reference, and what they promise beyond it: the same bits in any batch."""

import os
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gllm.kernels import cpu, dispatch, reference
from gllm.kernels.native import build
from gllm.kernels.native.library import library
from tests.kernels.paged import Case, make_case, random_rows

if library() is None:
    pytest.skip(
        "no C compiler here; torch's operators are tested in test_kernels_cpu", allow_module_level=True
    )

from gllm.kernels import cpu_native, packed_linear

torch.set_num_threads(2)

SEEDS = range(8)
UNITS = (False, True) if packed_linear.HAS_MATRIX_UNIT else (False,)  # with vectors, and on the matrix unit
EXACT = {"atol": 0.0, "rtol": 0.0}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
NEIGHBOUR = {"atol": 1e-5, "rtol": 2**-7}  # of bfloat16


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def product(
    weight: Tensor,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    is_gated: bool = False,
    on_matrix_unit: bool,
) -> packed_linear.PackedLinear:
    return packed_linear.packed(weight, bias, scale, is_gated=is_gated, on_matrix_unit=on_matrix_unit)


def test_torch_and_the_library_share_one_pool_of_threads() -> None:
    assert packed_linear.native.omp_get_max_threads() == torch.get_num_threads()


@pytest.mark.parametrize("on_matrix_unit", UNITS)
@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize(("num_outputs", "size"), [(96, 64), (70, 33), (258, 600), (2, 1)])
@pytest.mark.parametrize("rows", [0, 1, 2, 11, 12, 13, 30, 200])
def test_products_agree_with_double_precision(
    rows: int, num_outputs: int, size: int, is_gated: bool, on_matrix_unit: bool
) -> None:
    x, bias = normal(rows, size, seed=1), normal(num_outputs, seed=3)
    weight = normal(num_outputs, size, seed=2) * size**-0.5
    for given in (None, bias):
        expected = x.double() @ weight.double().T + (0 if given is None else given.double())
        if is_gated:
            expected = reference.silu_mul(expected)
        got = product(weight, given, is_gated=is_gated, on_matrix_unit=on_matrix_unit)(x)
        torch.testing.assert_close(got.double(), expected, atol=3e-6, rtol=3e-6)


@pytest.mark.parametrize("on_matrix_unit", UNITS)
@pytest.mark.parametrize("magnitude", [1e-20, 1.0, 1e15])
def test_products_err_no_more_than_torch_s_in_float32(magnitude: float, on_matrix_unit: bool) -> None:
    x, weight = normal(50, 2048, seed=1) * magnitude, normal(96, 2048, seed=2)
    exact = x.double() @ weight.double().T
    got = product(weight, on_matrix_unit=on_matrix_unit)(x)
    ours, theirs = ((y.double() - exact).norm() / exact.norm() for y in (got, x @ weight.T))
    print(f"relative error: ours {ours:.1e}, torch's {theirs:.1e}")
    assert ours < 1.5 * theirs


@pytest.mark.parametrize("on_matrix_unit", UNITS)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_row_without_numbers_spoils_no_other(value: float, on_matrix_unit: bool) -> None:
    multiply = product(normal(70, 100, seed=1), on_matrix_unit=on_matrix_unit)
    x = normal(40, 100, seed=2)
    sound = multiply(x)
    x[17, 5] = value
    got = multiply(x)
    assert not got[17].isfinite().any()
    others = torch.arange(40) != 17
    torch.testing.assert_close(got[others], sound[others], **EXACT)


def in_8_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Some int8 weight and its scales."""
    scale = weight.abs().amax(1) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


@pytest.mark.parametrize("on_matrix_unit", UNITS)
@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize(("num_outputs", "size"), [(96, 64), (70, 33), (258, 600), (2, 1)])
@pytest.mark.parametrize("rows", [0, 1, 2, 12, 13, 30, 200])
def test_products_with_8_bits_agree_with_the_reference(
    rows: int, num_outputs: int, size: int, is_gated: bool, on_matrix_unit: bool
) -> None:
    x, bias = normal(rows, size, seed=1), normal(num_outputs, seed=3)
    weight, scale = in_8_bits(normal(num_outputs, size, seed=2) * size**-0.5)
    for given in (None, bias):
        got = product(weight, given, scale, is_gated=is_gated, on_matrix_unit=on_matrix_unit)(x)
        expected = (reference.gated_linear if is_gated else reference.linear)(weight, given, scale)(x)
        torch.testing.assert_close(got, expected, atol=6e-6, rtol=6e-6)


@pytest.mark.parametrize("on_matrix_unit", UNITS)
@pytest.mark.parametrize("dtype", cpu_native.FORMATS.weights)
@pytest.mark.parametrize("is_gated", [False, True])
def test_a_row_s_product_is_the_same_to_the_bit_in_any_batch(
    is_gated: bool, dtype: torch.dtype, on_matrix_unit: bool
) -> None:
    weight, scale = normal(90, 700, seed=0), None
    if dtype == torch.int8:
        weight, scale = in_8_bits(weight)
    bias = normal(90, seed=1)
    multiply = product(weight.to(dtype), bias, scale, is_gated=is_gated, on_matrix_unit=on_matrix_unit)
    x = normal(900, 700, seed=2)
    together = multiply(x)
    for rows in (1, 5, 12, 13, 16, 17, 24, 25, 33, 100, 299, 500, 899):
        torch.testing.assert_close(multiply(x[:rows]), together[:rows], **EXACT)
        torch.testing.assert_close(multiply(x[-rows:]), together[-rows:], **EXACT)


@pytest.mark.parametrize("on_matrix_unit", UNITS)
@pytest.mark.parametrize("dtype", cpu_native.FORMATS.weights)
def test_a_row_is_the_same_in_any_batch_where_neither_rows_nor_weights_stay_in_a_cache(
    dtype: torch.dtype, on_matrix_unit: bool
) -> None:
    weight, x = normal(600, 4500, seed=0), normal(150, 4500, seed=1)
    weight, scale = in_8_bits(weight) if dtype == torch.int8 else (weight.to(dtype), None)
    multiply = product(weight, scale=scale, on_matrix_unit=on_matrix_unit)
    together = multiply(x)
    for first, last in ((0, 2), (3, 40), (3, 35), (70, 150), (0, 64)):
        torch.testing.assert_close(multiply(x[first:last].contiguous()), together[first:last], **EXACT)


@pytest.mark.parametrize("on_matrix_unit", UNITS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
@pytest.mark.parametrize("rows", [1, 7, 40])
@pytest.mark.parametrize("is_gated", [False, True])
def test_a_shorter_weight_gives_the_bits_of_the_same_weight_in_32(
    rows: int, is_gated: bool, dtype: torch.dtype, on_matrix_unit: bool
) -> None:
    weight, x = (30 * normal(100, 300, seed=0)).to(dtype), normal(rows, 300, seed=1)
    short, whole = (
        product(given, is_gated=is_gated, on_matrix_unit=on_matrix_unit) for given in (weight, weight.float())
    )
    torch.testing.assert_close(short(x), whole(x), **EXACT)


@pytest.mark.skipif(not packed_linear.HAS_MATRIX_UNIT, reason="no AMX here; torch's products are used")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
@pytest.mark.parametrize("is_gated", [False, True])
def test_rounded_products_are_those_of_the_rounded_row_in_any_batch(
    is_gated: bool, dtype: torch.dtype
) -> None:
    operators = dispatch.operators("cpu", torch.bfloat16)
    weight, scale = normal(90, 300, seed=0) * 300**-0.5, None
    if dtype == torch.int8:
        weight, scale = in_8_bits(weight)
    weight, x = weight.to(dtype), normal(300, 300, seed=1)
    exact = reference.gated_linear if is_gated else reference.linear
    expected = exact(weight.double(), None, None if scale is None else scale.double())(x.bfloat16().double())
    multiply = (operators.gated_linear if is_gated else operators.linear)(weight, None, scale)
    together = multiply(x)
    torch.testing.assert_close(together.double(), expected, atol=6e-6, rtol=6e-6)
    for rows in (1, 2, 16, 17, 40, 200):
        torch.testing.assert_close(multiply(x[:rows]), together[:rows], **EXACT)


def attend(case: Case) -> Tensor:
    return cpu_native.paged_attention(*case.arguments, scale=case.scale)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("heads", "head_dim"),
    [((4, 4), 8), ((6, 2), 16), ((10, 2), 40), ((3, 1), 64), ((16, 2), 80), ((8, 1), 128)],
)
def test_attention_over_ragged_rows_agrees_and_reads_no_other_s_memory(
    heads: tuple[int, int], head_dim: int, seed: int
) -> None:
    print("seed", seed)
    draw = random.Random(seed)
    rows = random_rows(seed, draw.randint(1, 12), draw.choice([3, 40, 300]))
    page_size = draw.choice([1, 4, 16])
    case = make_case(
        rows, heads=heads, head_dim=head_dim, page_size=page_size, dtype=torch.float32, seed=seed
    )
    got = attend(case)
    torch.testing.assert_close(got, case.expected(), **CLOSE)
    start = 0
    for index, (_, count) in enumerate(rows):
        torch.testing.assert_close(attend(case.row(index)), got[start : start + count], **EXACT)
        start += count


def test_a_prompt_attends_to_the_bit_alike_in_one_chunk_and_in_several() -> None:
    whole = make_case([(0, 700)], heads=(4, 2), head_dim=64, page_size=16, dtype=torch.float32)
    together = attend(whole)
    for start, end in ((0, 2), (2, 130), (130, 131 + 150), (281, 700)):
        starts, before = torch.tensor([0, end - start]).int(), torch.tensor([start]).int()
        part = Case(whole.q[start:end], whole.k_pages, whole.v_pages, whole.page_table, before, starts)
        torch.testing.assert_close(attend(part), together[start:end], **EXACT)


@pytest.mark.parametrize("heads", [(3, 1), (12, 4)])
def test_a_long_context_is_weighed_in_parts_alike_in_any_batch(heads: tuple[int, int]) -> None:
    rows = [(2999, 1), (0, 1), (255, 1), (256, 1), (257, 1), (511, 1), (40, 1), (1300, 1), (7, 1)]
    case = make_case(rows, heads=heads, head_dim=64, page_size=16, dtype=torch.float32)
    got = attend(case)
    torch.testing.assert_close(got, case.expected(), **CLOSE)
    for index in range(len(rows)):
        torch.testing.assert_close(attend(case.row(index)), got[index : index + 1], **EXACT)


@pytest.mark.parametrize("size", [7, 33, 768])
@pytest.mark.parametrize("rows", [0, 1, 50])
def test_norms_and_gates_agree(rows: int, size: int) -> None:
    x, y, weight = normal(rows, size, seed=0), normal(rows, size, seed=1), normal(size, seed=2)
    torch.testing.assert_close(
        cpu_native.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5), **CLOSE
    )
    got, expected = (b.add_rms_norm(x, y.clone(), weight, 1e-5) for b in (cpu_native, reference))
    torch.testing.assert_close(got, expected, **CLOSE)
    gates = torch.cat([normal(rows, 2 * size, seed=4) * 30, torch.tensor([[-200.0, 200.0] * size])])
    torch.testing.assert_close(cpu_native.silu_mul(gates), reference.silu_mul(gates), **CLOSE)


def test_what_is_no_number_stays_none() -> None:
    gates = torch.tensor([[float("nan"), 1.0, 2.0, float("nan")] * 32])
    got, expected = cpu_native.silu_mul(gates).isnan(), reference.silu_mul(gates).isnan()
    assert got.any()
    assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", SEEDS)
def test_heads_are_normed_and_rotated_and_land_in_their_places(seed: int, dtype: torch.dtype) -> None:
    print("seed", seed)
    draw = random.Random(seed)
    heads, kv_heads, head_dim = draw.choice([1, 4]), draw.choice([1, 2]), draw.choice([8, 12, 64])
    half, tokens = draw.choice([head_dim // 2, head_dim // 4]), draw.randint(1, 20)
    qkv = normal(tokens, heads + 2 * kv_heads, head_dim, seed=seed)
    weights = normal(2, head_dim, seed=seed + 1)
    turn = normal(tokens, half, seed=seed + 2)
    locations = torch.randperm(32, generator=torch.Generator().manual_seed(seed))[:tokens]
    made = []
    for backend in (reference, cpu_native):
        k, v = torch.zeros(2, 8, 4, kv_heads, head_dim, dtype=dtype)
        own = qkv.clone()
        backend.norm_heads(own, weights[0], weights[1], 1e-6, num_heads=heads)
        q = backend.rotary_write(own, turn.cos(), turn.sin(), k, v, locations, interleaved=seed % 2 == 0)
        made.append((q, k, v))
    for got, expected in zip(made[1], made[0], strict=True):
        # A sum in another order may be rounded to the neighbour.
        torch.testing.assert_close(got, expected, **(CLOSE if got.dtype == torch.float32 else NEIGHBOUR))
    values = qkv[:, -kv_heads:].to(dtype)
    torch.testing.assert_close(made[1][2].flatten(0, 1)[locations], values, **EXACT)


def test_keys_are_rounded_to_16_bits_as_torch_rounds_them() -> None:
    halves = torch.arange(1 << 16).to(torch.int32) << 16
    ties = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=torch.int32)
    values = (
        (halves[:, None] | ties).view(torch.float32).reshape(-1, 1, 64)
    )  # every number of 16 bits and around it
    k, v = torch.zeros(2, len(values), 1, 1, 64, dtype=torch.bfloat16)
    turn = torch.empty(len(values), 0)
    cpu_native.rotary_write(
        values.repeat(1, 2, 1), turn, turn, k, v, torch.arange(len(values)), interleaved=False
    )
    for got in (k, v):
        torch.testing.assert_close(got.view(-1), values.view(-1).bfloat16(), equal_nan=True, **EXACT)


def test_float32_is_computed_in_c_and_bfloat16_where_there_is_a_matrix_unit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert dispatch.operators("cpu", torch.float32) is cpu_native
    assert dispatch.operators("cpu", torch.float16) is cpu
    assert (dispatch.operators("cpu", torch.bfloat16) is cpu) == (not packed_linear.HAS_MATRIX_UNIT)
    monkeypatch.setattr(dispatch, "library", lambda: None)
    assert dispatch.operators("cpu", torch.float32) is cpu


@pytest.mark.parametrize(
    ("compiler", "says"), [("no-such-compiler", "no C compiler 'no-such-compiler'"), ("false", "failed")]
)
def test_without_a_compiler_the_reason_is_one_sentence(
    compiler: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(build.BuildError, match=says):
        build.built()
    assert not list(tmp_path.rglob("*.so"))


def test_a_cache_that_is_open_to_others_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "gllm").mkdir()
    os.chmod(tmp_path / "gllm", 0o755)
    with pytest.raises(build.BuildError, match="open to others"):
        build.built()


def test_where_no_cache_can_be_made_the_library_lies_among_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # like a read-only one, even for root
    monkeypatch.setattr(build.tempfile, "tempdir", str(tmp_path))
    made = build.built()
    assert made.parent == tmp_path / f"gllm-{os.getuid()}"
    assert made.parent.stat().st_mode & 0o777 == 0o700
    assert build.built() == made


@pytest.mark.parametrize("size", [1, 5, 16, 101, 40_000])
def test_the_likeliest_token_is_the_lowest_id_of_equals(size: int) -> None:
    logits = normal(7, size, seed=0).round(decimals=0)  # many are equal
    logits[0] = float("-inf")
    logits[1, size // 2 :] = float("-inf")
    assert torch.equal(cpu_native.greedy(logits), torch.from_numpy(logits.numpy().argmax(-1)))
    assert cpu_native.greedy(torch.full((1, size), float("nan"))).item() in range(size)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 1024, 40_005])
def test_masks_forbid_what_the_reference_forbids_and_touch_nothing_else(size: int) -> None:
    whole = normal(9, size + 3, seed=0)
    whole[4, 0], whole[5, 0] = float("nan"), float("inf")
    rows = torch.tensor([4, 0, 7, 5, 8])
    bits = torch.randint(-(2**31), 2**31, (5, -(-size // 32)), generator=torch.Generator().manual_seed(1))
    bits = bits.to(torch.int32)
    bits[1], bits[2] = 0, -1
    bits[0, 0] |= 1
    made = []
    for backend in (reference, cpu_native):
        own = whole.clone()
        backend.apply_masks(own[:, :size], rows, bits)  # rows that do not lie behind one another
        made.append(own)
    assert torch.equal(made[1].view(torch.int32), made[0].view(torch.int32))
    assert made[1][0, :size].eq(float("-inf")).all()


def test_a_user_without_a_home_has_a_directory_among_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(build.Path, "home", home)
    monkeypatch.setattr(build.tempfile, "tempdir", str(tmp_path))
    assert build._directory() == tmp_path / f"gllm-{os.getuid()}"
