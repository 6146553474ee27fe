"""Logits to tokens in plain torch, obviously right and slow: the other half of `reference.py`.

From logits to a token, on every backend in this order: the grammar's masks, then allowed_token_ids
(`apply_masks` both times); bad_words (`ban_words`); min_tokens and logit_bias (`add_to_logits`, a ban
is -inf); penalties (`penalize`); then `greedy` or `sample`: temperature, top_k, top_p, min_p.
Log-probabilities are of the logits before all that (`logprobs`), as OpenAI and vLLM have them.

The first five change some rows in place. A table by slot, with a row for every slot of the worker,
stays on the device; `slots` says which of its rows belongs to which row of the logits. No function
needs a number from the device: shapes alone say how much work there is.
"""

import torch
from torch import Tensor

IN_PROMPT = 1 << 30  # the flag of a prompt's token in a count
GREEDY_BELOW = 1e-5  # a temperature under this is 0: dividing by it would leave one token anyway

PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
PHILOX_ROUNDS = 10
MASK32 = 0xFFFFFFFF


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
