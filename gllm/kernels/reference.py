"""Every operator in plain torch, obviously right and slow: the oracle that the fast ones are tested against.

Knows nothing of models, slots or steps. Words: a row is one sequence's part of a micro-batch, a page
holds `page_size` tokens of keys or values. Statistics, softmax and sums are taken in float32 whatever
the dtype of the tensors.
"""

import torch
from torch import Tensor

from gllm.kernels.linear import PACKS_WEIGHTS as PACKS_WEIGHTS
from gllm.kernels.linear import STORED_DTYPES as STORED_DTYPES
from gllm.kernels.linear import PlainGatedLinear, PlainLinear, plain_linear

GREEDY_BELOW = 1e-5  # a temperature under this is 0: dividing by it would leave one token anyway

PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
PHILOX_ROUNDS = 10
MASK32 = 0xFFFFFFFF


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


# ---- logits -----------------------------------------------------------------------------------
#
# From logits to a token, on every backend in this order: the grammar's masks, then allowed_token_ids
# (`apply_masks` both times); bad_words (`ban_words`); min_tokens and logit_bias (`add_to_logits`, a ban
# is -inf); penalties (`penalize`); then `greedy` or `sample`: temperature, top_k, top_p, min_p.
# Log-probabilities are of the logits before all that (`logprobs`), as OpenAI and vLLM have them.
#
# The first five change some rows in place. A table by slot, with a row for every slot of the worker,
# stays on the device; `slots` says which of its rows belongs to which row of the logits. No function of
# this part needs a number from the device: shapes alone say how much work there is.


def apply_masks(logits: Tensor, rows: Tensor, bits: Tensor) -> None:
    """Forbid tokens: their logits become -inf, in place.

    logits: float32 [num_rows, vocab]; rows: int64 [num_masked], none twice; bits: int32
    [num_masked, ceil(vocab / 32)], of which bit i % 32 of word i // 32 is 1 where token i is allowed.
    The first step of all that changes logits.
    """
    allowed = (bits[:, :, None] >> torch.arange(32, device=bits.device, dtype=torch.int32)) & 1
    forbidden = allowed.flatten(1)[:, : logits.shape[1]] == 0
    logits[rows] = logits[rows].masked_fill(forbidden, float("-inf"))


def ban_words(
    logits: Tensor, rows: Tensor, slots: Tensor, position: Tensor, words: Tensor, recent: Tensor
) -> None:
    """Forbid the last token of each word whose other tokens were generated just before, in place.

    logits: float32 [num_rows, vocab]; rows: int64 [num_words], a row once for each of its words;
    slots: int64 [num_words]; position: int64 [num_words], of the token to be drawn.
    words: int32 [num_words, length], flush right, -1 before the first token; length - 1 <= window.
    recent: int32 [num_slots, window], the generated tokens of a slot at position % window, -1 where a
    position was not generated.
    """
    window = recent.shape[1]
    for row, slot, at, word in zip(
        rows.tolist(), slots.tolist(), position.tolist(), words.tolist(), strict=True
    ):
        before = [(distance, token) for distance, token in enumerate(reversed(word[:-1]), 1) if token >= 0]
        if all(int(recent[slot, (at - distance) % window]) == token for distance, token in before):
            logits[row, word[-1]] = float("-inf")


def add_to_logits(logits: Tensor, rows: Tensor, tokens: Tensor, values: Tensor) -> None:
    """logits[rows[i], tokens[i]] += values[i], in place.

    logits: float32 [num_rows, vocab]; rows, tokens: int64 [num_values]; values: float32 [num_values],
    -inf to forbid. A place may come twice, but with at most one finite value.
    """
    logits.index_put_((rows, tokens), values, accumulate=True)


IN_PROMPT = 1 << 30  # the flag of a prompt's token in a count


def penalize(
    logits: Tensor,
    rows: Tensor,
    slots: Tensor,
    counts: Tensor,
    repetition: Tensor,
    frequency: Tensor,
    presence: Tensor,
) -> None:
    """Make tokens that were there before less likely, in place.

    logits: float32 [num_rows, vocab]; rows, slots: int64 [num_penalized], none twice; repetition,
    frequency, presence: float32 [num_penalized].
    counts: int32 [num_slots, vocab], how often a token was generated, plus IN_PROMPT if the prompt has it.
    First tokens of prompt and output: divided by repetition where positive, else multiplied; then those of
    the output: less frequency times their number, less presence.
    Source: Keskar et al. 2019 (repetition); OpenAI's API reference (the others).
    """
    for row, slot, *factors in zip(
        rows.tolist(), slots.tolist(), repetition, frequency, presence, strict=True
    ):
        seen, x = counts[slot], logits[row]
        generated = (seen & (IN_PROMPT - 1)).float()
        x = torch.where(seen != 0, torch.where(x > 0, x / factors[0], x * factors[0]), x)
        x = x - factors[1] * generated
        logits[row] = x - factors[2] * (generated > 0)


def logprobs(logits: Tensor, tokens: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Natural log-probabilities of one token a row, and of the likeliest.

    logits: float32 [rows, vocab], unchanged; tokens: int64 [rows]; 0 <= num_top <= vocab.
    Returns ranks int64 [rows], 1 + the number of tokens that are likelier than tokens[i]; ids int64 and
    values float32 [rows, 1 + num_top]: the token itself, then the likeliest in falling order, the lower
    id first among equals.
    """
    chosen = logits.gather(1, tokens[:, None])
    likeliest = logits.sort(dim=-1, descending=True, stable=True)
    ids = torch.cat([tokens[:, None], likeliest.indices[:, :num_top]], dim=1)
    return (logits > chosen).sum(-1) + 1, ids, logits.log_softmax(-1).gather(1, ids)


# ---- sampling ---------------------------------------------------------------------------------


def greedy(logits: Tensor) -> Tensor:
    """The likeliest token of each row, the lowest id of equals. logits: [rows, vocab]; int64 [rows]."""
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
    """One token a row, drawn with the random number of (seed, position): a function of the row alone.

    logits: float32 [rows, vocab]; temperature, top_p: float32 [rows]; top_k: int32 [rows];
    seed, position: int64 [rows], of [0, 2**63); log_min_p: float32 [rows], -inf for none. Returns int64
    [rows].

    In this order: divide by the temperature (0: the likeliest token, as in `greedy`); keep the top_k
    likeliest tokens and those equal to the last of them (0: all); of these keep the likeliest ones
    until their probability reaches top_p, the lower id first among equals, at least one; of these keep
    those whose logit, divided by the temperature, lies at most -log_min_p below the highest: whose
    probability is at least min_p times the likeliest's; draw by inverse CDF in order of token ids.
    Logits that are no numbers give some id of the vocabulary.
    """
    filters = temperature, top_k, top_p, [float("-inf")] * len(logits) if log_min_p is None else log_min_p
    rows = [
        _sample_row(row, float(heat), int(count), float(share), float(least), drawn)
        for row, heat, count, share, least, drawn in zip(
            logits, *filters, uniform(seed, position), strict=True
        )
    ]
    return torch.stack(rows) if rows else torch.empty(0, dtype=torch.int64, device=logits.device)


def _sample_row(
    logits: Tensor, temperature: float, top_k: int, top_p: float, log_min_p: float, drawn: Tensor
) -> Tensor:
    """The token of one row. logits: [vocab]; drawn: float64 scalar of (0, 1)."""
    if temperature < GREEDY_BELOW:
        return logits.argmax()
    scaled = (logits - logits.max()) / temperature
    if 0 < top_k < logits.numel():
        scaled = scaled.masked_fill(scaled < scaled.topk(top_k).values[-1], float("-inf"))
    probability = scaled.softmax(-1)
    if top_p < 1:
        ordered, token = probability.sort(descending=True, stable=True)
        before = ordered.double().cumsum(-1) - ordered.double()
        dropped = before >= top_p
        dropped[0] = False
        probability = probability.index_fill(0, token[dropped], 0.0)
    probability = probability.masked_fill(scaled < log_min_p, 0.0)
    reached = probability.double().cumsum(-1)
    return torch.searchsorted(reached, drawn * reached[-1], right=True).clamp(max=logits.numel() - 1)


def uniform(seed: Tensor, position: Tensor) -> Tensor:
    """The random number of (seed, position): float64 of (0, 1), in steps of 2**-32.

    The first word of Philox4x32-10 with key `seed` and counter (position, 0).
    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011).
    """
    words = [
        position & MASK32,
        (position >> 32) & MASK32,
        torch.zeros_like(position),
        torch.zeros_like(position),
    ]
    key = [seed & MASK32, (seed >> 32) & MASK32]
    for _ in range(PHILOX_ROUNDS):
        # int64 products wrap, yet their 64 bits are those of the unsigned product; masking drops the sign.
        low, high = words[0] * PHILOX_MULTIPLIERS[0], words[2] * PHILOX_MULTIPLIERS[1]
        words = [
            ((high >> 32) & MASK32) ^ words[1] ^ key[0],
            high & MASK32,
            ((low >> 32) & MASK32) ^ words[3] ^ key[1],
            low & MASK32,
        ]
        key = [(k + step) & MASK32 for k, step in zip(key, PHILOX_KEY_STEPS, strict=True)]
    return (words[0].double() + 0.5) * 2.0**-32
