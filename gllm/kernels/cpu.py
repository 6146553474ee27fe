"""The operators for a CPU: torch calls over whole micro-batches, no Python over tokens or decode rows.

Shapes and meanings are documented in `reference.py`. Knows nothing of models, slots or steps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gllm.kernels.cpu_attention import group_rows, paged_attention
from gllm.kernels.cpu_logits import add_to_logits, apply_masks, ban_words, logprobs, penalize
from gllm.kernels.cpu_sampling import greedy, sample
from gllm.kernels.formats import PLAIN as FORMATS
from gllm.kernels.linear import PlainGatedLinear, PlainLinear, plain_linear

# of this backend, too
__all__ = [
    "FORMATS",
    "add_to_logits",
    "apply_masks",
    "ban_words",
    "greedy",
    "group_rows",
    "logprobs",
    "paged_attention",
    "penalize",
    "recorder",
    "sample",
]

recorder = None  # what torch computes is not recorded


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    residual += x
    return F.rms_norm(residual, weight.shape, weight, eps), residual


def linear(weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> PlainLinear:
    return plain_linear(weight, bias, scale)


def gated_linear(weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> PlainGatedLinear:
    return PlainGatedLinear(plain_linear(weight, bias, scale), silu_mul)


def silu_mul(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def norm_heads(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float, *, num_heads: int) -> None:
    num_kv_heads = (qkv.shape[1] - num_heads) // 2
    queries, keys = qkv[:, :num_heads], qkv[:, num_heads : num_heads + num_kv_heads]
    queries.copy_(F.rms_norm(queries, q_weight.shape, q_weight, eps))
    keys.copy_(F.rms_norm(keys, k_weight.shape, k_weight, eps))


def mix_experts(x: Tensor, gate_up: Tensor, down: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    out = torch.zeros(x.shape, dtype=torch.float32)
    top_k = chosen.shape[1]
    order = chosen.flatten().argsort(stable=True)  # pairs of token and expert, by expert
    counts = chosen.flatten().bincount(minlength=len(down)).tolist()
    start = 0
    for expert, count in enumerate(counts):
        if count:
            pairs = order[start : start + count]
            tokens = pairs // top_k
            made = F.linear(silu_mul(F.linear(x[tokens], gate_up[expert])), down[expert])
            # A token meets an expert once, so that the additions of one call are of different rows.
            out.index_add_(0, tokens, made.float() * weights.flatten()[pairs, None])
            start += count
    return out.to(x.dtype)


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
    num_kv_heads = k_pages.shape[2]
    num_heads = qkv.shape[1] - 2 * num_kv_heads
    half = cos.shape[-1]
    turned = qkv[:, : num_heads + num_kv_heads, : 2 * half]  # queries and keys turn alike: one pass for both
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned[..., :half], turned[..., half:]
    cos, sin = cos[:, None], sin[:, None]
    if qkv.dtype == torch.float32:
        old_first = first.clone()
        first.mul_(cos).addcmul_(second, sin, value=-1)
        second.mul_(cos).addcmul_(old_first, sin)
    else:  # one rounding, at the end
        new_first = first * cos - second * sin
        second.copy_(second * cos + first * sin)
        first.copy_(new_first)
    k_pages.view(-1, *k_pages.shape[2:]).index_copy_(0, locations, qkv[:, num_heads:-num_kv_heads])
    v_pages.view(-1, *v_pages.shape[2:]).index_copy_(0, locations, qkv[:, -num_kv_heads:])
    return qkv[:, :num_heads]
