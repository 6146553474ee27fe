"""The operators for a CPU: torch calls over whole micro-batches, no Python over tokens or decode rows.

Shapes and meanings are documented in `reference.py`. Knows nothing of models, slots or steps.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from gllm.kernels.cpu_logits import add_to_logits, apply_masks, ban_words, logprobs, penalize
from gllm.kernels.linear import PACKS_WEIGHTS, STORED_DTYPES, PlainGatedLinear, PlainLinear, plain_linear
from gllm.kernels.reference import GREEDY_BELOW, MASK32, PHILOX_KEY_STEPS, PHILOX_MULTIPLIERS, PHILOX_ROUNDS

# of this backend, too
__all__ = [
    "PACKS_WEIGHTS",
    "STORED_DTYPES",
    "add_to_logits",
    "apply_masks",
    "ban_words",
    "logprobs",
    "penalize",
]

GATHER_TOKENS = 1024  # tokens gathered at once: what fits the cache is read back from it
QUERY_BLOCK = 256  # queries of a chunk that attend at once: bounds the mask
FEW_PAGES = 8  # contexts up to this are padded to each other freely
SAMPLE_BLOCK = 1 << 21  # logits that are turned into probabilities at once
LIKELY_TOKENS = 1024  # top_p rarely keeps more, and finding these is cheaper than sorting all


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


# ---- attention --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows of one token each, with contexts of similar length, padded to the longest of them."""

    tokens: Tensor | None  # int64 [rows], where their queries are; None: all queries, in order
    pages: Tensor  # int64 [rows * pages of the longest]
    mask: Tensor  # float32 [rows, 1, 1, tokens of the longest]: 0, or -inf beyond a row's context


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A row of several tokens: queries [start, end), of which the first comes behind `before` tokens."""

    start: int
    end: int
    before: int
    pages: Tensor  # int64 [pages of its context]


@dataclass(frozen=True, slots=True)
class Groups:
    """The rows of a micro-batch, arranged for attention; the same for every layer."""

    decodes: list[DecodeGroup]
    chunks: list[ChunkRow]


def group_rows(
    page_table: Tensor,
    num_computed: Tensor,
    query_start: Tensor,
    page_size: int,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> Groups:
    """Arrange the rows; the tables are as `paged_attention` takes them. Hazard: none of its tensors may
    be changed while the groups are in use."""
    del num_heads, num_kv_heads, head_dim
    table, before, starts = page_table.numpy(), num_computed.numpy(), query_start.numpy()
    single = np.diff(starts) == 1
    decode_rows = np.flatnonzero(single)
    chunks = []
    for row in np.flatnonzero(~single):
        start, end, computed = int(starts[row]), int(starts[row + 1]), int(before[row])
        pages = table[row, : -(-(computed + end - start) // page_size)]
        chunks.append(ChunkRow(start, end, computed, torch.from_numpy(pages.astype(np.int64))))
    groups = []
    if len(decode_rows):
        contexts = before[decode_rows] + 1
        num_pages = -(-contexts // page_size)
        for members in _similar(num_pages, max(1, GATHER_TOKENS // page_size)):
            rows, context = decode_rows[members], contexts[members]
            longest = int(num_pages[members].max())
            beyond = np.arange(longest * page_size) >= context[:, None]
            mask = np.where(beyond, np.float32("-inf"), np.float32(0.0))[:, None, None]
            # A page beyond a row's own is page 0 or a stale number: masked, but it must exist.
            pages = np.where(np.arange(longest) < num_pages[members][:, None], table[rows, :longest], 0)
            alone = len(rows) == len(starts) - 1
            tokens = None if alone else torch.from_numpy(starts[rows].astype(np.int64))
            flat = torch.from_numpy(pages.astype(np.int64).reshape(-1))
            groups.append(DecodeGroup(tokens, flat, torch.from_numpy(mask)))
    return Groups(groups, chunks)


def _similar(num_pages: npt.NDArray[np.int32], most: int) -> list[npt.NDArray[np.int64]]:
    """Members of each group: no row is padded to more than twice its pages (few pages aside), and no group
    gathers more than `most` pages if it has several rows."""
    if num_pages.max() * len(num_pages) <= most and num_pages.max() <= max(FEW_PAGES, 2 * num_pages.min()):
        return [np.arange(len(num_pages))]
    order = np.argsort(num_pages, kind="stable")
    ordered = num_pages[order]
    groups, start = [], 0
    while start < len(order):
        end = int(np.searchsorted(ordered, max(FEW_PAGES, 2 * ordered[start]), "right"))
        end = min(end, start + max(1, most // int(ordered[end - 1])))
        groups.append(np.sort(order[start:end]))
        start = end
    return groups


def paged_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    page_table: Tensor,
    num_computed: Tensor,
    query_start: Tensor,
    *,
    scale: float,
    groups: Groups | None = None,
) -> Tensor:
    num_pages, page_size, num_kv_heads, head_dim = k_pages.shape
    if groups is None:
        heads = {"num_heads": q.shape[1], "num_kv_heads": num_kv_heads, "head_dim": head_dim}
        groups = group_rows(page_table, num_computed, query_start, page_size, **heads)
    shared = q.shape[1] // num_kv_heads  # query heads a key head
    k_flat, v_flat = k_pages.view(num_pages, -1), v_pages.view(num_pages, -1)
    out = q.new_empty(q.shape)
    for group in groups.decodes:
        rows = len(group.mask)
        # [rows, kv heads, tokens, head_dim] views of gathered pages: the kernel takes any strides.
        k = k_flat.index_select(0, group.pages).view(rows, -1, num_kv_heads, head_dim).transpose(1, 2)
        v = v_flat.index_select(0, group.pages).view(rows, -1, num_kv_heads, head_dim).transpose(1, 2)
        queries = q if group.tokens is None else q.index_select(0, group.tokens)
        # Query heads that share a key head stand where a longer query would: no key is repeated.
        grouped = queries.reshape(rows, num_kv_heads, shared, head_dim)
        result = F.scaled_dot_product_attention(grouped, k, v, attn_mask=group.mask, scale=scale)
        result = result.reshape(rows, -1, head_dim)
        if group.tokens is None:
            return result
        out.index_copy_(0, group.tokens, result)
    for chunk in groups.chunks:
        context = chunk.before + chunk.end - chunk.start
        k = (
            k_flat.index_select(0, chunk.pages)
            .view(-1, num_kv_heads, 1, head_dim)[:context]
            .permute(1, 2, 0, 3)
        )
        v = (
            v_flat.index_select(0, chunk.pages)
            .view(-1, num_kv_heads, 1, head_dim)[:context]
            .permute(1, 2, 0, 3)
        )
        for start in range(chunk.start, chunk.end, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, chunk.end)
            reach = chunk.before + end - chunk.start  # the block's last query sees this many tokens
            mask = torch.full((end - start, reach), float("-inf")).triu_(reach - (end - start) + 1)
            queries = q[start:end].view(end - start, num_kv_heads, shared, head_dim).permute(1, 2, 0, 3)
            size = (num_kv_heads, shared, reach, head_dim)
            result = F.scaled_dot_product_attention(
                queries,
                k[:, :, :reach].expand(size),
                v[:, :, :reach].expand(size),
                attn_mask=mask,
                scale=scale,
            )
            out[start:end] = result.permute(2, 0, 1, 3).reshape(end - start, -1, head_dim)
    return out


# ---- sampling ---------------------------------------------------------------------------------


def greedy(logits: Tensor) -> Tensor:
    return logits.argmax(-1)


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seed: Tensor,
    position: Tensor,
    log_min_p: Tensor | None = None,
) -> Tensor:
    drawn = torch.from_numpy(uniform(seed.numpy(), position.numpy()))
    block = max(1, SAMPLE_BLOCK // logits.shape[1])
    columns = (logits, temperature, top_k, top_p, drawn, log_min_p)
    tokens = [
        _draw(*(None if column is None else column[start : start + block] for column in columns))  # type: ignore[arg-type]
        for start in range(0, len(logits), block)
    ]
    return torch.where(temperature < GREEDY_BELOW, greedy(logits), torch.cat(tokens))


def _draw(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    drawn: Tensor,
    log_min_p: Tensor | None,
) -> Tensor:
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature.clamp(min=GREEDY_BELOW)[:, None]
    limited = ((top_k > 0) & (top_k < logits.shape[1])).nonzero()[:, 0]
    if len(limited):
        rows, count = scaled[limited], top_k[limited].long()
        least = rows.topk(int(count.max())).values.gather(1, count[:, None] - 1)
        scaled[limited] = rows.masked_fill(rows < least, float("-inf"))
    probability = scaled.softmax(-1)
    limited = (top_p < 1).nonzero()[:, 0]
    if len(limited):
        probability[limited] = _keep_likeliest(probability[limited], top_p[limited].double()[:, None])
    if log_min_p is not None:
        probability = probability.masked_fill_(scaled < log_min_p[:, None], 0.0)
    reached = probability.double().cumsum_(-1)
    tokens = torch.searchsorted(reached, drawn[:, None] * reached[:, -1:], right=True)[:, 0]
    return tokens.clamp_(
        max=logits.shape[1] - 1
    )  # NaN is reached nowhere; a token id must exist all the same


def _keep_likeliest(probability: Tensor, top_p: Tensor) -> Tensor:
    """`probability` [rows, vocab] with zeros for what top_p [rows, 1] drops."""
    for most in (min(LIKELY_TOKENS, probability.shape[1]), probability.shape[1]):
        ordered = probability.topk(most).values
        wide = ordered.double()
        kept = ((wide.cumsum(-1) - wide) < top_p).sum(-1, keepdim=True).clamp_(min=1)
        if int(kept.max()) < most:
            break
    least = ordered.gather(1, kept - 1)
    above, equal = probability > least, probability == least
    room = kept - above.sum(-1, keepdim=True)  # for so many of the equal ones, the lowest ids
    equal &= equal.cumsum(-1) <= room
    return probability.where(above | equal, 0.0)


def uniform(seed: npt.NDArray[np.int64], position: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """`reference.uniform` in unsigned numpy arithmetic, the generator's two halves side by side."""
    mask, shift = np.uint64(MASK32), np.uint64(32)
    multipliers = np.array(PHILOX_MULTIPLIERS, np.uint64)[:, None]
    steps = np.array(PHILOX_KEY_STEPS, np.uint64)[:, None]
    counter, seeds = position.astype(np.uint64), seed.astype(np.uint64)
    multiplied = np.stack([counter & mask, np.zeros_like(counter)])  # words 0 and 2
    others = np.stack([counter >> shift, np.zeros_like(counter)])  # words 1 and 3
    key = np.stack([seeds & mask, seeds >> shift])
    for _ in range(PHILOX_ROUNDS):
        product = multiplied * multipliers
        multiplied = (product[::-1] >> shift) ^ others ^ key
        others = product[::-1] & mask
        key = (key + steps) & mask
    drawn: npt.NDArray[np.float64] = (multiplied[0].astype(np.float64) + 0.5) * 2.0**-32
    return drawn
