"""Part 2, mixtures of experts and norms of heads: every kernel against products in float32, at real sizes."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from bench.device.machine import Machine
from gllm.kernels import reference
from gllm.kernels.experts import mix_experts
from gllm.kernels.head_norm import norm_heads

# Experts, of them a token's, hidden size, size of one: Qwen3-30B-A3B's and half of Mixtral's layer.
EXPERTS = ((128, 8, 2048, 768), (8, 2, 4096, 7168))
MOST_ERROR = {torch.float16: 3e-3, torch.bfloat16: 2e-2}  # two products behind one another


def checks(machine: Machine, dtypes: tuple[torch.dtype, ...]) -> Iterator[tuple[str, Callable[[], None]]]:
    for dtype in dtypes:
        for shape in ((5, 2, 48, 36),) if machine.is_dry else EXPERTS:
            for num_tokens in (1, 7) if machine.is_dry else (1, 7, 64, 700, 4096):
                name = f"experts {shape}, {num_tokens} tokens, {dtype}"
                yield name, partial(check_experts, machine, shape, num_tokens, dtype, name)
        yield f"head norms {dtype}", partial(check_head_norms, machine, dtype)


def check_experts(
    machine: Machine, shape: tuple[int, int, int, int], num_tokens: int, dtype: torch.dtype, name: str
) -> None:
    """Against products in float32, expert by expert; and one token alone gets nearly the same."""
    num_experts, top_k, hidden, size = shape
    device = machine.device
    x = torch.randn(num_tokens, hidden, device=device).to(dtype)
    gate_up = (torch.randn(num_experts, 2 * size, hidden, device=device) * hidden**-0.5).to(dtype)
    down = (torch.randn(num_experts, hidden, size, device=device) * size**-0.5).to(dtype)
    liking = torch.randn(num_tokens, num_experts, device=device)
    liking += torch.linspace(0, 2, num_experts, device=device)
    weights, chosen = liking.softmax(-1).topk(top_k)
    out = torch.full_like(x, float("nan"))
    got = mix_experts(x, gate_up, down, chosen, weights, out=out)
    want = in_float32(x, gate_up, down, chosen, weights)
    alone = mix_experts(x[-1:], gate_up, down, chosen[-1:], weights[-1:])
    for kind, found, expected in (("", got, want), (", alone", alone, want[-1:])):
        error = float((found.double() - expected.double()).norm() / expected.double().norm())
        machine.emit(
            "correctness", kernel="mix_experts", shape=name + kind, error=error, limit=MOST_ERROR[dtype],
            ok=error <= MOST_ERROR[dtype],
        )  # fmt: skip


def in_float32(x: Tensor, gate_up: Tensor, down: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """`reference.mix_experts` with an expert's tokens in one product."""
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for expert in range(len(down)):
        tokens, places = (chosen == expert).nonzero(as_tuple=True)
        inner = reference.silu_mul(x[tokens].float() @ gate_up[expert].float().T)
        out[tokens] += weights[tokens, places, None] * (inner @ down[expert].float().T)
    return out


def check_head_norms(machine: Machine, dtype: torch.dtype) -> None:
    num_tokens, num_heads, num_kv_heads, head_dim = (3, 5, 2, 80) if machine.is_dry else (777, 32, 4, 128)
    qkv = torch.randn(num_tokens, num_heads + 2 * num_kv_heads, head_dim, device=machine.device).to(dtype)
    q_weight, k_weight = torch.randn(2, head_dim, device=machine.device).to(dtype)
    want = qkv.float()
    reference.norm_heads(want, q_weight.float(), k_weight.float(), 1e-6, num_heads=num_heads)
    norm_heads(qkv, q_weight, k_weight, 1e-6, num_heads=num_heads)
    error = float((qkv.double() - want.double()).norm() / want.double().norm())
    machine.emit(
        "correctness", kernel="norm_heads", shape=f"{tuple(qkv.shape)} {dtype}", error=error,
        limit=MOST_ERROR[dtype], ok=error <= MOST_ERROR[dtype],
    )  # fmt: skip
