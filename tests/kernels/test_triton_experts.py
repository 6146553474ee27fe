"""Mixture of experts and norms of heads in Triton, interpreted, against the reference."""

import random

import pytest
import torch
from torch import Tensor

from gllm.kernels import experts, reference
from gllm.kernels.experts import Tiling, mix_experts
from gllm.kernels.head_norm import norm_heads

pytestmark = pytest.mark.usefixtures("interpreter")
# The interpreter cuts float32 to bfloat16 instead of rounding it; the values are of the size of 1.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}
TINY = Tiling(16, 32, 32, 4, 2)


def made(
    num_tokens: int, num_experts: int, top_k: int, hidden: int, size: int, dtype: torch.dtype, seed: int
) -> tuple[Tensor, ...]:
    """Arguments of `mix_experts`; experts are chosen unevenly."""
    print("seed", seed)
    torch.manual_seed(seed)
    x = torch.randn(num_tokens, hidden).to(dtype)
    gate_up = (torch.randn(num_experts, 2 * size, hidden) * hidden**-0.5).to(dtype)
    down = (torch.randn(num_experts, hidden, size) * size**-0.5).to(dtype)
    liking = torch.randn(num_tokens, num_experts) + torch.linspace(0, 2, num_experts)
    weights, chosen = liking.softmax(-1).topk(top_k)
    return x, gate_up, down, chosen, weights.contiguous()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("num_tokens", "num_experts", "top_k", "hidden", "size"),
    [(1, 8, 2, 64, 40), (3, 5, 5, 36, 24), (37, 4, 2, 40, 36), (21, 7, 3, 33, 17)],
)
def test_experts_are_mixed_as_by_the_reference(
    num_tokens: int,
    num_experts: int,
    top_k: int,
    hidden: int,
    size: int,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(experts, "tiling_for", lambda *_: TINY)
    arguments = made(num_tokens, num_experts, top_k, hidden, size, dtype, seed=num_tokens)
    out = torch.full((num_tokens, hidden), float("nan"), dtype=dtype)
    got = mix_experts(*arguments, out=out)
    assert got is out
    want = reference.mix_experts(*arguments)
    torch.testing.assert_close(got.float(), want.float(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("seed", range(5))
def test_blocks_hold_every_pair_once_and_one_expert_each(seed: int) -> None:
    draw = random.Random(seed)
    num_experts, block_m = draw.choice([1, 5, 64]), draw.choice([16, 64])
    num_tokens, top_k = draw.choice([1, 7, 1500]), min(num_experts, 3)
    chosen = torch.rand(num_tokens, num_experts).topk(top_k).indices
    if draw.random() < 0.4:
        chosen[:, 0] = 0  # all to one, a token at most twice then
    pairs, whose = experts._blocks(chosen, num_experts, block_m)
    num_pairs = chosen.numel()
    seen: list[int] = []
    for block, expert in zip(pairs.view(-1, block_m).tolist(), whose.tolist(), strict=True):
        if expert >= 0:
            own = [pair for pair in block if pair < num_pairs]
            assert own
            assert block == own + [num_pairs] * (block_m - len(own))
            assert {int(chosen.flatten()[pair]) for pair in own} == {expert}
            seen += own
    assert sorted(seen) == list(range(num_pairs))
    assert (whose >= 0).tolist() == sorted((whose >= 0).tolist(), reverse=True)


def test_a_tokens_mixture_does_not_depend_on_its_company(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts, "tiling_for", lambda *_: TINY)
    x, gate_up, down, chosen, weights = made(19, 4, 2, 64, 32, torch.float16, seed=3)
    together = mix_experts(x, gate_up, down, chosen, weights)
    for token in range(0, 19, 6):
        one = slice(token, token + 1)
        assert torch.equal(mix_experts(x[one], gate_up, down, chosen[one], weights[one])[0], together[token])


@pytest.mark.parametrize("num_pairs", [16, 700, 30_000])
def test_every_tiling_computes_the_same(num_pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = made(5, 3, 2, 136, 40, torch.float16, seed=1)
    tiling = experts.tiling_for(num_pairs, 3)
    monkeypatch.setattr(experts, "tiling_for", lambda *_: tiling)
    torch.testing.assert_close(
        mix_experts(*arguments), reference.mix_experts(*arguments), atol=4e-3, rtol=4e-3
    )


def test_without_tokens_there_is_no_mixture() -> None:
    arguments = made(1, 3, 2, 16, 16, torch.float32, seed=0)
    empty = [arguments[0][:0], *arguments[1:3], arguments[3][:0], arguments[4][:0]]
    assert mix_experts(*empty).shape == (0, 16)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(4, 2, 128), (11, 3, 80), (1, 1, 64)])
def test_heads_are_normed_as_by_the_reference(
    num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(head_dim)
    wide = torch.randn(5, num_heads + 2 * num_kv_heads + 1, head_dim).to(dtype)
    qkv = wide[:, :-1]  # tokens that lie apart
    q_weight, k_weight = torch.randn(2, head_dim).to(dtype)
    want, before = qkv.clone(), wide.clone()
    reference.norm_heads(want, q_weight, k_weight, 1e-6, num_heads=num_heads)
    norm_heads(qkv, q_weight, k_weight, 1e-6, num_heads=num_heads)
    torch.testing.assert_close(qkv.float(), want.float(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert torch.equal(qkv[:, -num_kv_heads:], before[:, -1 - num_kv_heads : -1])
    assert torch.equal(wide[:, -1], before[:, -1])
