"""The requests of the comparison: token ids and output lengths that a seed decides.

Lengths are the same in every round, tokens are not, so that no cache of prefixes can help. Greedy, the end of
text ignored. Standard library only.
"""

import math
import random
from dataclasses import dataclass

FIRST_TOKEN = 16  # special tokens lie below
NUM_REQUESTS, MEAN_LEN, MAX_LEN, MIN_LEN = 64, 160, 512, 8
SPREAD, LENGTHS_SEED = 0.7, 42  # of the lognormal law of prompt lengths
OUTPUT_LEN = 64


@dataclass(frozen=True, slots=True)
class Request:
    prompt: list[int]
    num_output_tokens: int


def requests(kind: str, round_: str, vocab_size: int, count: int = NUM_REQUESTS) -> list[Request]:
    """The requests of one measurement.

    kind: offline (`count` at once, prompts of 29 to 512 tokens, 64 out each), decode (one: 32 in, 128 out),
    prefill (one: 1024 in, 1 out), or first (one: 32 in, 1 out).
    """
    if kind == "offline":
        lengths = prompt_lengths(count)
        return [
            Request(_tokens(length, vocab_size, f"off-0-{round_}-{number}"), OUTPUT_LEN)
            for number, length in enumerate(lengths)
        ]
    name, num_prompt, num_output = SINGLE[kind]
    return [Request(_tokens(num_prompt, vocab_size, f"{name}-0-{round_}"), num_output)]


SINGLE = {"decode": ("one", 32, 128), "prefill": ("pre", 1024, 1), "first": ("first", 32, 1)}


def prompt_lengths(count: int) -> list[int]:
    """Lognormal with a mean of about MEAN_LEN, cut to MIN_LEN and MAX_LEN."""
    rng = random.Random(LENGTHS_SEED)
    mu = math.log(MEAN_LEN) - SPREAD**2 / 2
    return [max(MIN_LEN, min(MAX_LEN, round(rng.lognormvariate(mu, SPREAD)))) for _ in range(count)]


def _tokens(count: int, vocab_size: int, seed: str) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(FIRST_TOKEN, vocab_size) for _ in range(count)]
