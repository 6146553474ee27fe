"""One token a row from logits, for a CPU: torch calls over blocks of rows.

Shapes and meanings are documented in `reference_logits.py`.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gllm.kernels.reference_logits import (
    GREEDY_BELOW,
    MASK32,
    PHILOX_KEY_STEPS,
    PHILOX_MULTIPLIERS,
    PHILOX_ROUNDS,
)

SAMPLE_BLOCK = 1 << 21  # logits that are turned into probabilities at once
LIKELY_TOKENS = 1024  # top_p rarely keeps more, and finding these is cheaper than sorting all


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
    """`reference_logits.uniform` in unsigned numpy arithmetic, the generator's two halves side by side."""
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
