"""Attention over pages of 16 bits in C: queries and weights are rounded to them, nothing else is;
and no row depends on who shares its batch or on how its prompt was cut."""

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gllm.kernels.native.library import library
from tests.kernels.paged import Case, make_case, random_rows

if library() is None:
    pytest.skip(
        "no C compiler here; torch's operators are tested in test_kernels_cpu", allow_module_level=True
    )

from gllm.kernels import cpu_native, packed_linear

if not packed_linear.HAS_MATRIX_UNIT:
    pytest.skip(
        "no AMX here; torch's operators serve bfloat16 and are tested in test_kernels_cpu",
        allow_module_level=True,
    )

torch.set_num_threads(2)

EXACT = {"atol": 0.0, "rtol": 0.0}
ROUNDING = 2**-8  # of a number to 8 bits, relative
POWER = 2**-13.5  # error of the exponential, relative
SUMS = 2e-6  # error of sums in float32, absolute, where values are about 1
HEADS = [((4, 4), 8), ((6, 2), 16), ((10, 2), 40), ((3, 1), 64), ((16, 2), 80), ((34, 1), 32), ((8, 1), 128)]


def make(rows: list[tuple[int, int]], heads: tuple[int, int], head_dim: int, **given: int) -> Case:
    """With queries that 16 bits do not hold."""
    page_size, seed = given.get("page_size", 16), given.get("seed", 0)
    case = make_case(
        rows, heads=heads, head_dim=head_dim, page_size=page_size, dtype=torch.bfloat16, seed=seed
    )
    wide = torch.randn(len(case.q), heads[0] + 2, head_dim)
    return replace(case, q=wide[:, : heads[0]])


def attend(case: Case) -> Tensor:
    return cpu_native.paged_attention(*case.arguments, scale=case.scale)


def exact(case: Case) -> tuple[Tensor, Tensor]:
    """In double precision with rounded queries, and by how much rounded weights may change it.

    If each weight w of a mean m of values v becomes w (1 + e), the mean moves by sum(w e (v - m)) / (1 + e).
    """
    page_size, kv_heads, size = case.k_pages.shape[1:]
    shared = case.q.shape[1] // kv_heads
    means, bounds = [], []
    for row, before in enumerate(case.num_computed.tolist()):
        start, end = case.query_start[row : row + 2].tolist()
        context = before + end - start
        pages = case.page_table[row, : -(-context // page_size)].long()
        k, v = (
            cache[pages].view(-1, kv_heads, size)[:context].double().repeat_interleave(shared, 1)
            for cache in (case.k_pages, case.v_pages)
        )
        scores = torch.einsum("qhd,khd->hqk", case.q[start:end].bfloat16().double(), k) * case.scale
        hidden = torch.arange(context) > torch.arange(before, context)[:, None]
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        mean = torch.einsum("hqk,khd->qhd", weights, v)
        means.append(mean)
        apart = (v.transpose(0, 1)[:, None] - mean.transpose(0, 1)[:, :, None]).abs()
        bounds.append(torch.einsum("hqk,hqkd->qhd", weights, apart))
    return torch.cat(means), torch.cat(bounds) * (ROUNDING + POWER) / (1 - ROUNDING)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("heads", "head_dim"), HEADS)
def test_attention_errs_by_no_more_than_rounded_weights_and_alone_as_in_a_batch(
    heads: tuple[int, int], head_dim: int, seed: int
) -> None:
    print("seed", seed)
    draw = random.Random(seed)
    rows = random_rows(seed, draw.randint(1, 8), draw.choice([3, 40, 300]))
    case = make(rows, heads, head_dim, page_size=draw.choice([1, 4, 16]), seed=seed)
    got = attend(case)
    expected, bound = exact(case)
    assert ((got - expected).abs() <= bound + SUMS).all()
    start = 0
    for index, (_, count) in enumerate(rows):
        torch.testing.assert_close(attend(case.row(index)), got[start : start + count], **EXACT)
        start += count


@pytest.mark.parametrize("heads", [(3, 1), (12, 4)])
def test_a_prompt_attends_to_the_bit_alike_in_one_chunk_and_in_several(heads: tuple[int, int]) -> None:
    whole = make([(0, 700)], heads, 64)
    together = attend(whole)
    for start, end in ((0, 2), (2, 130), (130, 131 + 150), (281, 700), (254, 258), (510, 514)):
        starts, before = torch.tensor([0, end - start]).int(), torch.tensor([start]).int()
        part = Case(whole.q[start:end], whole.k_pages, whole.v_pages, whole.page_table, before, starts)
        torch.testing.assert_close(attend(part), together[start:end], **EXACT)


@pytest.mark.parametrize("page_size", [4, 16])
@pytest.mark.parametrize(("heads", "head_dim"), HEADS)
def test_a_token_alone_attends_to_the_bit_as_in_its_prompt(
    heads: tuple[int, int], head_dim: int, page_size: int
) -> None:
    whole = make([(0, 600)], heads, head_dim, page_size=page_size)
    together = attend(whole)
    places = torch.tensor([0, 1, 15, 31, 32, 33, 100, 254, 255, 256, 257, 300, 511, 512, 599])
    starts, tables = torch.arange(len(places) + 1).int(), whole.page_table.repeat(len(places), 1)
    alone = Case(whole.q[places], whole.k_pages, whole.v_pages, tables, places.int(), starts)
    torch.testing.assert_close(attend(alone), together[places], **EXACT)
    for index in range(len(places)):
        torch.testing.assert_close(attend(alone.row(index)), together[places[index : index + 1]], **EXACT)


def test_a_long_context_errs_by_no_more_than_a_short_one() -> None:
    case = make([(2999, 20), (500, 3), (2999, 1), (40, 1)], (6, 2), 64)
    expected, bound = exact(case)
    assert ((attend(case) - expected).abs() <= bound + SUMS).all()


def test_equal_values_are_their_own_mean_whatever_the_weights() -> None:
    case = make([(0, 300), (40, 20), (300, 1)], (6, 2), 64)
    equal = torch.randn(64).bfloat16()
    got = attend(replace(case, v_pages=equal.expand(case.v_pages.shape).contiguous()))
    torch.testing.assert_close(got, equal.float().expand(got.shape), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("magnitude", [0.0, 40.0])
def test_scores_that_are_all_equal_or_far_apart_are_weighed(magnitude: float) -> None:
    case = make([(0, 300), (600, 20), (600, 1)], (6, 2), 64)
    case = replace(case, q=case.q * magnitude)
    expected, bound = exact(case)
    assert ((attend(case) - expected).abs() <= bound + SUMS).all()
