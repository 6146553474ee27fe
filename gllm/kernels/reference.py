"""Every operator in plain torch, obviously right and slow: the oracle that the fast ones are tested against.

Knows nothing of models, slots or steps. Words: a row is one sequence's part of a micro-batch, a page
holds `page_size` tokens of keys or values. Statistics, softmax and sums are taken in float32 whatever
the dtype of the tensors.
"""

import torch
from torch import Tensor

from gllm.kernels.formats import PLAIN as FORMATS
from gllm.kernels.linear import PlainGatedLinear, PlainLinear, plain_linear
from gllm.kernels.reference_logits import (
    add_to_logits,
    apply_masks,
    ban_words,
    greedy,
    logprobs,
    penalize,
    sample,
)

# of this backend, too
__all__ = [
    "FORMATS",
    "add_to_logits",
    "apply_masks",
    "ban_words",
    "greedy",
    "logprobs",
    "penalize",
    "recorder",
    "sample",
]

recorder = None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, in x's dtype.

    x: [..., size]; weight: [size]. Source: Zhang & Sennrich 2019, with Llama's rounding: the normed
    value takes x's dtype before it meets the weight.
    """
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * weight


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`total = x + residual`; returns (rms_norm(total), total). May use `residual`'s memory for total.

    x, residual: [num_tokens, size]; weight: [size].
    """
    total = x + residual
    return rms_norm(total, weight, eps), total


def linear(weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> PlainLinear:
    """x -> x @ weight.T + bias, with the weight put in the form that is best to compute with.

    weight: [out, in], which may be given up afterwards; bias: [out]. x: [rows, in]; returns [rows, out].
    scale: float32 [out], of an int8 weight, whose rows it multiplies.
    """
    return plain_linear(weight, bias, scale)


def gated_linear(weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> PlainGatedLinear:
    """x -> silu_mul(x @ weight.T + bias): [rows, in] to [rows, out / 2]. Arguments as `linear` takes them."""
    return PlainGatedLinear(linear(weight, bias, scale), silu_mul)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up. gate_up: [num_tokens, 2 * size], gate first; returns [num_tokens, size]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


def norm_heads(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float, *, num_heads: int) -> None:
    """Norm each head of queries and keys by itself, as `rms_norm` does, in place.

    qkv: [num_tokens, num_heads + 2 * num_kv_heads, head_dim], as `rotary_write` takes it; values stay.
    q_weight, k_weight: [head_dim]. Source: Henry et al. 2020 (query-key normalization).
    """
    num_kv_heads = (qkv.shape[1] - num_heads) // 2
    qkv[:, :num_heads] = rms_norm(qkv[:, :num_heads], q_weight, eps)
    keys = slice(num_heads, num_heads + num_kv_heads)
    qkv[:, keys] = rms_norm(qkv[:, keys], k_weight, eps)


def mix_experts(x: Tensor, gate_up: Tensor, down: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """The sum of each token's chosen gated MLPs, weighted: of expert e, down[e] @ silu_mul(gate_up[e] @ x).

    x: [num_tokens, hidden]; gate_up: [num_experts, 2 * size, hidden], gate first;
    down: [num_experts, hidden, size]; chosen: int64 [num_tokens, top_k], an expert at most once a token;
    weights: float32 [num_tokens, top_k]. Returns [num_tokens, hidden] in x's dtype; sums in float32.
    """
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for token, (experts, shares) in enumerate(zip(chosen.tolist(), weights, strict=True)):
        for expert, share in zip(experts, shares, strict=True):
            inner = silu_mul(x[token : token + 1] @ gate_up[expert].T)
            out[token] += share * (inner @ down[expert].T)[0].float()
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
    """Rotate queries and keys, write keys and values into their pages, return the queries.

    qkv: [num_tokens, num_heads + 2 * num_kv_heads, head_dim]: query heads, then key heads, then value
    heads; its query and key heads are overwritten by the rotated ones, and the returned
    [num_tokens, num_heads, head_dim] is a view of it.
    cos, sin: float32 [num_tokens, rotary_dim / 2], of each token's position. Pair i of a head turns by
    angle i: dimensions (i, i + rotary_dim / 2), or (2i, 2i + 1) if `interleaved`; dimensions from
    rotary_dim on stay as they are.
    k_pages, v_pages: [num_pages, page_size, num_kv_heads, head_dim].
    locations: int64 [num_tokens], page * page_size + offset; no two alike.

    Hazard: a row may read pages that another row of this step writes (a prefix hit), so that all rows
    must be written before any row attends. Hence this is one operator for the whole micro-batch.
    Source: Su et al. 2021.
    """
    num_kv_heads = k_pages.shape[2]
    q, k, v = qkv[:, : -2 * num_kv_heads], qkv[:, -2 * num_kv_heads : -num_kv_heads], qkv[:, -num_kv_heads:]
    half = cos.shape[-1]
    first, second = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
        if interleaved
        else (slice(half), slice(half, 2 * half))
    )
    for x in (q, k):
        a, b = x[..., first].float(), x[..., second].float()
        turned = a * cos[:, None] - b * sin[:, None], b * cos[:, None] + a * sin[:, None]
        x[..., first], x[..., second] = turned[0].to(x.dtype), turned[1].to(x.dtype)
    k_pages.view(-1, *k_pages.shape[2:])[locations] = k.to(k_pages.dtype)
    v_pages.view(-1, *v_pages.shape[2:])[locations] = v.to(v_pages.dtype)
    return q


def group_rows(
    page_table: Tensor,
    num_computed: Tensor,
    query_start: Tensor,
    page_size: int,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> None:
    """What `paged_attention` of this backend wants to know once a step instead of once a layer: nothing.

    The tables, on the host, are as `paged_attention`'s.
    """
    del page_table, num_computed, query_start, page_size, num_heads, num_kv_heads, head_dim


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
    """Causal attention of ragged queries over paged keys and values.

    q: [num_tokens, num_heads, head_dim], rows of one sequence adjacent; num_heads is a multiple of
    num_kv_heads, and query head h reads key head h * num_kv_heads // num_heads.
    k_pages, v_pages: [num_pages, page_size, num_kv_heads, head_dim].
    page_table: int32 [num_rows, max_pages]; num_computed: int32 [num_rows], tokens before this chunk.
    query_start: int32 [num_rows + 1], prefix sum of chunk lengths, each at least 1.
    scale: the factor of the scores, head_dim ** -0.5 in most models.
    groups: what `group_rows` of the same backend made of the same tables.
    Returns [num_tokens, num_heads, head_dim] in q's dtype; accumulates in float32.
    """
    del groups
    num_heads, num_kv_heads, page_size = q.shape[1], k_pages.shape[2], k_pages.shape[1]
    out = torch.empty_like(q)
    for row, (start, end) in enumerate(zip(query_start.tolist(), query_start.tolist()[1:], strict=False)):
        before = int(num_computed[row])
        context = before + end - start
        pages = page_table[row, : -(-context // page_size)].long()
        k = k_pages[pages].flatten(0, 1)[:context].float().repeat_interleave(num_heads // num_kv_heads, dim=1)
        v = v_pages[pages].flatten(0, 1)[:context].float().repeat_interleave(num_heads // num_kv_heads, dim=1)
        scores = torch.einsum("qhd,khd->hqk", q[start:end].float(), k) * scale
        position = torch.arange(before, context, device=q.device)
        future = torch.arange(context, device=q.device)[None, :] > position[:, None]
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        out[start:end] = torch.einsum("hqk,khd->qhd", weights, v).to(q.dtype)
    return out
