"""Paged attention in Triton, interpreted, against the reference in float32."""

import pytest
import torch
from paged import Case, make_case, random_rows
from torch import Tensor

from gllm.kernels.attention import paged_attention
from gllm.kernels.attention_work import Work, group_rows
from gllm.kernels.tuning import SHORT_CHUNK, SPLIT_TOKENS

pytestmark = pytest.mark.usefixtures("interpreter")
TOLERANCE = {torch.float16: 3e-3, torch.bfloat16: 3e-2}  # absolute; inputs are standard normal
HEADS = {64: (8, 2), 80: (3, 3), 96: (6, 3), 128: (7, 1), 256: (2, 1)}  # with groups that are no power of two


def work_of(case: Case) -> Work:
    return group_rows(
        case.num_computed,
        case.query_start,
        num_heads=case.q.shape[1],
        num_kv_heads=case.k_pages.shape[2],
        head_dim=case.q.shape[2],
    )


def attend(case: Case, work: Work | None = None) -> Tensor:
    """Into an output full of NaN."""
    out = torch.full(case.q.shape, float("nan"), dtype=case.q.dtype)
    return paged_attention(*case.arguments, scale=case.scale, groups=work, out=out)


def assert_right(case: Case) -> None:
    tolerance = TOLERANCE[case.q.dtype]
    torch.testing.assert_close(attend(case).float(), case.expected(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("page_size", [16, 32, 64])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_a_random_mixed_batch_agrees_with_the_reference(head_dim: int, page_size: int) -> None:
    seed = head_dim + page_size
    print(f"seed {seed}")
    dtype = torch.bfloat16 if page_size == 32 else torch.float16
    rows = random_rows(seed, 5, 200)
    assert_right(
        make_case(rows, heads=HEADS[head_dim], head_dim=head_dim, page_size=page_size, dtype=dtype, seed=seed)
    )


@pytest.mark.parametrize("count", [1, SHORT_CHUNK, SHORT_CHUNK + 1, 33])
def test_rows_at_the_borders_of_pages_blocks_and_splits_are_right(count: int) -> None:
    borders = [16, 64, 128, SPLIT_TOKENS]
    rows = [
        (border + shift - count, count) for border in borders for shift in (-1, 0, 1) if border >= count + 1
    ]
    assert_right(make_case(rows, heads=(4, 1), head_dim=64, page_size=16))


@pytest.mark.parametrize("rows", [[(0, 1)], [(0, 5)], [(0, 130)], [(1500, 1)], [(1300, 40)]], ids=str)
def test_a_single_row_is_right_without_prefix_and_with_a_long_one(rows: list[tuple[int, int]]) -> None:
    assert_right(make_case(rows, heads=(4, 2), head_dim=128, page_size=64))


def test_many_query_heads_on_one_key_head_are_right() -> None:
    assert_right(make_case([(40, 1), (3, 9), (70, 1)], heads=(32, 1), head_dim=64, page_size=16))


def test_a_row_gets_the_same_bits_in_any_company() -> None:
    case = make_case(
        [(700, 1), (20, 40), (0, 1), (1030, 2), (90, 7)], heads=(4, 2), head_dim=64, page_size=16
    )
    together = attend(case)
    for row in range(len(case.num_computed)):
        start, end = int(case.query_start[row]), int(case.query_start[row + 1])
        assert torch.equal(attend(case.row(row)), together[start:end])


def test_padded_work_computes_the_same_and_leaves_other_tokens_alone() -> None:
    case = make_case([(700, 1), (3, 1), (1100, 1)], heads=(4, 2), head_dim=64, page_size=16)
    exact = attend(case)
    work = work_of(case)
    padded = work.padded(num_splits=work.num_splits + 5, num_decodes=5)
    wide = torch.cat((case.q, torch.full((2, *case.q.shape[1:]), float("nan"), dtype=case.q.dtype)))
    result = attend(Case(wide, *case.arguments[1:]), padded)
    assert torch.equal(result[:3], exact)
    assert result[3:].isnan().all()


def test_work_that_does_not_fit_a_graph_says_so() -> None:
    work = work_of(make_case([(700, 1), (0, 9)], heads=(4, 2), head_dim=64, page_size=16))
    with pytest.raises(ValueError, match="run this step without"):
        work.padded(num_splits=8, num_decodes=8)


@pytest.mark.parametrize("seed", range(20))
def test_the_work_lists_name_every_pair_of_query_and_key_once(seed: int) -> None:
    print(f"seed {seed}")
    rows = random_rows(seed, 1 + seed % 9, 2000)
    before = torch.tensor([before for before, _ in rows])
    starts = torch.tensor([0] + [count for _, count in rows]).cumsum(0)
    work = group_rows(before, starts, num_heads=12, num_kv_heads=4, head_dim=128)
    seen = [torch.zeros(count, before + count, dtype=torch.int32) for before, count in rows]
    entries = work.table.tolist()
    assert entries[0] == [work.num_splits, 0, 0, 0]
    splits, decodes, tiles = (
        entries[1:],
        entries[1 + work.num_splits :],
        entries[1 + work.num_splits + work.num_decodes :],
    )
    for token, row, first, end in splits[: work.num_splits]:
        assert 0 < end - first <= SPLIT_TOKENS == work.decode.split_tokens
        assert first % work.decode.block_n == 0
        seen[row][token - int(starts[row]), first:end] += 1
    for token, first, count, _ in decodes[: work.num_decodes]:
        own = splits[first : first + count]
        assert [entry[0] for entry in own] == [token] * count
        assert [entry[2] for entry in own] == sorted(entry[2] for entry in own)
    assert sum(entry[2] for entry in decodes[: work.num_decodes]) == work.num_splits
    for first, count, row, prefix in tiles:
        assert 0 < count <= work.prefill.block_m // 3
        for index in range(first - int(starts[row]), first - int(starts[row]) + count):
            assert index + int(before[row]) == prefix + index - (first - int(starts[row]))
            seen[row][index, : int(before[row]) + index + 1] += 1
    for (prefix, count), pairs in zip(rows, seen, strict=True):
        assert torch.equal(pairs, torch.ones(count, prefix + count, dtype=torch.int32).tril(prefix))
