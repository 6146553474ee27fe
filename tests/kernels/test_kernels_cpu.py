"""The CPU operators against the reference, over shapes that a table of cases would forget."""

import random

import pytest
import torch
from torch import Tensor

from gllm.kernels import cpu, cpu_attention, reference

torch.set_num_threads(1)

SEEDS = range(12)
HEADS = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16}  # rows are grouped alike for all


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def ragged(
    draw: random.Random, page_size: int, num_pages: int, longest: int
) -> tuple[Tensor, Tensor, Tensor]:
    """page_table, num_computed, query_start of random rows, of which many decode."""
    rows = draw.randint(1, 24)
    counts = [1 if draw.random() < 0.6 else draw.randint(1, longest) for _ in range(rows)]
    before = [draw.choice([0, draw.randint(0, longest), draw.randint(0, 4 * longest)]) for _ in range(rows)]
    most = max(-(-(b + c) // page_size) for b, c in zip(before, counts, strict=True))
    table = torch.tensor([[draw.randrange(num_pages) for _ in range(most)] for _ in range(rows)])
    starts = torch.tensor([0, *counts]).cumsum(0)
    return table.int(), torch.tensor(before).int(), starts.int()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_over_ragged_rows_agrees(seed: int, dtype: torch.dtype) -> None:
    print("seed", seed)
    draw = random.Random(seed)
    page_size, head_dim = draw.choice([1, 4, 16]), draw.choice([8, 16, 40])
    kv_heads, shared = draw.choice([1, 2, 3]), draw.choice([1, 2, 5])
    table, before, starts = ragged(draw, page_size, 50, draw.choice([3, 40, 300]))
    q = normal(int(starts[-1]), kv_heads * shared, head_dim, seed=seed, dtype=dtype)
    k = normal(50, page_size, kv_heads, head_dim, seed=seed + 1, dtype=dtype)
    v = normal(50, page_size, kv_heads, head_dim, seed=seed + 2, dtype=dtype)
    scale = draw.choice([head_dim**-0.5, 1.0])
    expected = reference.paged_attention(q, k, v, table, before, starts, scale=scale)
    groups = cpu.group_rows(table, before, starts, page_size, **HEADS)
    for given in (groups, None):
        got = cpu.paged_attention(q, k, v, table, before, starts, scale=scale, groups=given)
        assert got.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("seed", SEEDS)
def test_decode_rows_are_padded_to_at_most_twice_their_pages_and_gathered_in_bounds(seed: int) -> None:
    print("seed", seed)
    draw = random.Random(seed)
    page_size, rows = draw.choice([1, 4, 16]), draw.randint(1, 200)
    before = torch.tensor([int(2 ** draw.uniform(0, 14)) for _ in range(rows)]).int()
    most = int(before.max()) // page_size + 1
    table = torch.zeros(rows, most, dtype=torch.int32)
    groups = cpu.group_rows(table, before, torch.arange(rows + 1).int(), page_size, **HEADS)
    seen = []
    for group in groups.decodes:
        members = range(rows) if group.tokens is None else group.tokens.tolist()
        seen += members
        padded = len(group.pages) // len(members)
        needed = [int(before[row]) // page_size + 1 for row in members]
        assert padded == max(needed)
        assert padded <= max(cpu_attention.FEW_PAGES, 2 * min(needed))
        assert len(members) == 1 or len(group.pages) * page_size <= cpu_attention.GATHER_TOKENS
        assert ((group.mask == 0).sum(-1).flatten() == before[list(members)] + 1).all()
    assert sorted(seen) == list(range(rows))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_agrees_and_keys_and_values_land_in_their_places(seed: int, dtype: torch.dtype) -> None:
    print("seed", seed)
    draw = random.Random(seed)
    heads, kv_heads, head_dim = draw.choice([1, 4]), draw.choice([1, 2]), draw.choice([8, 12])
    half = draw.choice([head_dim // 2, head_dim // 4])
    tokens, page_size = draw.randint(1, 20), 4
    qkv = normal(tokens, heads + 2 * kv_heads, head_dim, seed=seed, dtype=dtype)
    turn = normal(tokens, half, seed=seed + 1)
    locations = torch.randperm(32, generator=torch.Generator().manual_seed(seed))[:tokens]
    made = []
    for backend in (reference, cpu):
        k, v = torch.zeros(2, 8, page_size, kv_heads, head_dim, dtype=dtype)
        q = backend.rotary_write(
            qkv.clone(), turn.cos(), turn.sin(), k, v, locations, interleaved=seed % 2 == 0
        )
        made.append((q, k, v))
    for got, expected in zip(made[1], made[0], strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6 if dtype == torch.float32 else 1e-2)
    k, v = made[0][1:]
    assert torch.equal(v.view(-1, kv_heads, head_dim)[locations], qkv[:, -kv_heads:])
    assert torch.equal(  # beyond the rotated dimensions
        k.view(-1, kv_heads, head_dim)[locations][..., 2 * half :],
        qkv[:, heads : heads + kv_heads, 2 * half :],
    )
    untouched = torch.ones(32, dtype=torch.bool).index_fill(0, locations, False)
    assert not k.view(32, -1)[untouched].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norms_and_gates_agree(dtype: torch.dtype) -> None:
    x, y, weight = (normal(7, 33, seed=i, dtype=dtype) for i in range(3))
    tolerance = {"atol": 1e-6, "rtol": 1e-6} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    torch.testing.assert_close(
        cpu.rms_norm(x, weight[0], 1e-5), reference.rms_norm(x, weight[0], 1e-5), **tolerance
    )
    got, expected = (b.add_rms_norm(x, y.clone(), weight[0], 1e-5) for b in (cpu, reference))
    torch.testing.assert_close(got, expected, **tolerance)
    gates = normal(5, 24, seed=4, dtype=dtype)
    torch.testing.assert_close(cpu.silu_mul(gates), reference.silu_mul(gates), **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [64, 80])
def test_norms_of_heads_agree_and_leave_values_alone(head_dim: int, dtype: torch.dtype) -> None:
    qkv = normal(9, 5 + 2 * 3, head_dim, seed=0, dtype=dtype)
    q_weight, k_weight = (normal(1, head_dim, seed=seed, dtype=dtype)[0] for seed in (1, 2))
    got, expected = qkv.clone(), qkv.clone()
    cpu.norm_heads(got, q_weight, k_weight, 1e-6, num_heads=5)
    reference.norm_heads(expected, q_weight, k_weight, 1e-6, num_heads=5)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
    assert torch.equal(expected[:, 8:], qkv[:, 8:])
    assert torch.equal(expected[:, 5], reference.rms_norm(qkv[:, 5], k_weight, 1e-6))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixtures_of_experts_agree_and_a_token_s_result_is_its_own(seed: int, dtype: torch.dtype) -> None:
    print("seed", seed)
    draw = random.Random(seed)
    tokens, experts, hidden, size = draw.choice([1, 2, 17]), draw.choice([2, 5]), 12, 20
    x = normal(tokens, hidden, seed=seed, dtype=dtype)
    gate_up = normal(experts, 2 * size, hidden, seed=seed + 1, dtype=dtype) * 0.3
    down = normal(experts, hidden, size, seed=seed + 2, dtype=dtype) * 0.3
    weights, chosen = normal(tokens, experts, seed=seed + 3).softmax(-1).topk(draw.randint(1, experts))
    expected = reference.mix_experts(x, gate_up, down, chosen, weights)
    got = cpu.mix_experts(x, gate_up, down, chosen, weights)
    assert got.dtype == expected.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
    alone = cpu.mix_experts(x[-1:], gate_up, down, chosen[-1:], weights[-1:])
    torch.testing.assert_close(alone[0], got[-1], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("num_rows", [0, 1, 5])
def test_operators_take_few_and_no_rows(num_rows: int) -> None:
    assert cpu.greedy(torch.zeros(num_rows, 9)).shape == (num_rows,)
    assert cpu.silu_mul(torch.zeros(num_rows, 8)).shape == (num_rows, 4)
    normed, total = cpu.add_rms_norm(torch.zeros(num_rows, 8), torch.ones(num_rows, 8), torch.ones(8), 1e-5)
    assert normed.shape == total.shape == (num_rows, 8)
