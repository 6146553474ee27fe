"""Prompts and output lengths: conversations of ShareGPT's form, made-up tokens, shared prefixes, poems.

Each function gives samples in the order in which they are sent. Made-up prompts are token ids, so
that their lengths are exact. Knows nothing of arrivals, HTTP or engines.
"""

import json
import math
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gllm.bench.errors import BenchError
from gllm.frontend.tokenizer import Tokenizer
from gllm.process import StartError

MIN_TOKENS, MAX_PROMPT_TOKENS, MAX_TOKENS = 4, 1024, 2048  # vLLM's limits on a ShareGPT conversation
SONNET_TASK = "Pick as many lines as you can from these poem lines:\n"


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt, as text or token ids, its length, and how many tokens are to follow it."""

    prompt: "str | array[int]"
    num_prompt_tokens: int
    num_output_tokens: int

    def otherwise(self) -> "Sample":
        """A prompt of the same size that shares no prefix with this one: for warming up."""
        return Sample(self.prompt[::-1], self.num_prompt_tokens, self.num_output_tokens)


def open_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a local directory; raises `BenchError`."""
    if not Path(path).is_dir():
        raise BenchError(f"{path} is no directory here: name the one of the tokenizer with --tokenizer DIR")
    try:
        return Tokenizer.load(path)
    except StartError as error:
        raise BenchError(str(error)) from error


class RandomTokens:
    """Draws tokens of a vocabulary, special ones and unused rows left out."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        special = tokenizer.special_token_ids
        ordinary = [
            token
            for token in range(tokenizer.vocab_size)
            if token not in special and tokenizer.id_to_token(token) is not None
        ]
        self._ordinary = np.array(ordinary, np.int32)
        self._seed = seed
        self.rng = np.random.default_rng(seed)

    def draw(self, count: int, rng: np.random.Generator | None = None) -> "array[int]":
        if count < 0:
            raise BenchError(f"a prompt cannot have {count} tokens: set its lengths to 0 or more")
        return array("i", (rng or self.rng).choice(self._ordinary, count).tobytes())

    def of(self, kind: str, number: int, count: int) -> "array[int]":
        """Tokens that the seed, `kind` and `number` alone decide."""
        return self.draw(count, np.random.default_rng([self._seed, *kind.encode(), number]))


def sharegpt(
    path: str, count: int, tokenizer: Tokenizer, seed: int, num_output_tokens: int | None = None
) -> list[Sample]:
    """The first two turns of conversations, in an order drawn by `seed`: a prompt, and an answer's length.

    With vLLM's filters: both have at least 4 tokens, the prompt at most 1024, together at most 2048.
    num_output_tokens: that many, however long the answer was.
    """
    turns = [_turns(path, item) for item in _json_list(path)]
    asked = [pair for pair in turns if pair is not None]
    random.Random(seed).shuffle(asked)
    samples: list[Sample] = []
    for prompt, answer in asked:
        if len(samples) == count:
            break
        num_prompt = len(tokenizer.encode(prompt))
        num_output = num_output_tokens or len(tokenizer.encode(answer, add_special_tokens=False))
        long_enough = num_prompt >= MIN_TOKENS and (num_output_tokens or num_output >= MIN_TOKENS)
        if long_enough and num_prompt <= MAX_PROMPT_TOKENS and num_prompt + num_output <= MAX_TOKENS:
            samples.append(Sample(prompt, num_prompt, num_output))
    if not samples:
        raise BenchError(
            f"{path} has no conversation of two turns with {MIN_TOKENS} to {MAX_PROMPT_TOKENS} tokens"
        )
    return samples


def uniform(
    count: int,
    tokens: RandomTokens,
    *,
    num_input_tokens: int,
    num_output_tokens: int,
    num_prefix_tokens: int = 0,
    range_ratio: float = 0.0,
) -> list[Sample]:
    """Made-up prompts; lengths uniform in [n (1 - range_ratio), n (1 + range_ratio)].

    num_prefix_tokens: in front of every prompt, the same for all, not counted in num_input_tokens.
    """
    if not 0 <= range_ratio < 1:
        raise BenchError(
            f"--random-range-ratio is {range_ratio:g}, expected [0, 1): lengths spread that far to both sides"
        )
    prefix = tokens.draw(num_prefix_tokens)

    def lengths(middle: int, least: int) -> Sequence[int]:
        low, high = math.floor(middle * (1 - range_ratio)), math.ceil(middle * (1 + range_ratio))
        drawn: list[int] = tokens.rng.integers(max(low, least), max(high, least) + 1, count).tolist()
        return drawn

    inputs, outputs = lengths(num_input_tokens, 0 if prefix else 1), lengths(num_output_tokens, 1)
    return [_made(prefix + tokens.draw(size), output) for size, output in zip(inputs, outputs, strict=True)]


def prefix_repetition(
    count: int,
    tokens: RandomTokens,
    *,
    num_prefixes: int,
    num_prefix_tokens: int,
    num_suffix_tokens: int,
    num_output_tokens: int,
) -> list[Sample]:
    """Made-up prompts of which as many as possible share each of `num_prefixes` beginnings, shuffled."""
    if not 0 < num_prefixes <= count:
        raise BenchError(f"{count} prompts cannot share {num_prefixes} prefixes: ask for more prompts")
    prefixes = [tokens.draw(num_prefix_tokens) for _ in range(num_prefixes)]
    order = tokens.rng.permutation(count).tolist()
    return [
        _made(prefixes[number % num_prefixes] + tokens.draw(num_suffix_tokens), num_output_tokens)
        for number in order
    ]


def sonnet(
    path: str,
    count: int,
    tokenizer: Tokenizer,
    seed: int,
    *,
    num_input_tokens: int,
    num_output_tokens: int,
    num_prefix_tokens: int,
) -> list[Sample]:
    """Prompts of about `num_input_tokens`: a task and lines of a poem, of which the first ones always.

    Plain text: the chat template is the server's affair (`--backend openai-chat`).
    """
    text = Path(path).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines(keepends=True) if line.strip()]
    if not lines:
        raise BenchError(f"{path} has no lines: expected a text such as vLLM's sonnet.txt")
    per_line = sum(len(tokenizer.encode(line, add_special_tokens=False)) for line in lines) / len(lines)
    room = num_input_tokens - len(tokenizer.encode(SONNET_TASK))
    if room < per_line:
        raise BenchError(f"--sonnet-input-len {num_input_tokens} leaves no room for a line: set more")
    num_lines = round(room / per_line)
    num_fixed = min(max(round((num_prefix_tokens - num_input_tokens + room) / per_line), 0), num_lines)
    draw = random.Random(seed)
    samples = []
    for _ in range(count):
        chosen = lines[:num_fixed] + draw.choices(lines, k=num_lines - num_fixed)
        prompt = SONNET_TASK + "".join(chosen)
        samples.append(Sample(prompt, len(tokenizer.encode(prompt)), num_output_tokens))
    return samples


def _made(prompt: "array[int]", num_output_tokens: int) -> Sample:
    return Sample(prompt, len(prompt), num_output_tokens)


def _json_list(path: str) -> list[Any]:
    try:
        items = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise BenchError(f"{path} is not JSON ({error})") from error
    if not isinstance(items, list):
        raise BenchError(f"{path} is no list of conversations, as ShareGPT's file is")
    return items


def _turns(path: str, item: Any) -> tuple[str, str] | None:
    """The first two turns of a conversation; None where it has fewer."""
    try:
        turns = item.get("conversations", item.get("conversation", []))
        return (str(turns[0]["value"]), str(turns[1]["value"])) if len(turns) >= 2 else None
    except (AttributeError, KeyError, TypeError):
        raise BenchError(f"{path} has a conversation without turns of 'from' and 'value'") from None
