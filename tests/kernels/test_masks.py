"""Masks over logits: every backend forbids the tokens whose bits are 0, and touches nothing else."""

import random
from types import ModuleType

import pytest
import torch

from gllm.kernels import cpu, reference


@pytest.mark.parametrize("backend", [reference, cpu])
@pytest.mark.parametrize("vocab_size", [1, 31, 32, 33, 97, 1024, 5003])
def test_forbidden_tokens_become_impossible_and_others_stay(backend: ModuleType, vocab_size: int) -> None:
    draw = random.Random(vocab_size)
    logits = torch.randn(6, vocab_size)
    rows = [4, 0, 3]
    words = -(-vocab_size // 32)
    allowed = [[draw.random() < share for _ in range(vocab_size)] for share in (0.02, 0.5, 0.98)]
    # Behind the vocabulary a mask may say anything.
    bits = [
        sum(1 << i for i, ok in enumerate([*row, *[True] * (words * 32 - vocab_size)]) if ok)
        for row in allowed
    ]
    raw = b"".join(number.to_bytes(4 * words, "little") for number in bits)
    expected = logits.clone()
    for row, oks in zip(rows, allowed, strict=True):
        for token, ok in enumerate(oks):
            if not ok:
                expected[row, token] = float("-inf")
    masks = torch.frombuffer(bytearray(raw), dtype=torch.int32).view(len(rows), words)
    assert backend.apply_masks(logits, torch.tensor(rows), masks) is None
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("backend", [reference, cpu])
def test_a_masked_row_is_drawn_among_what_is_allowed(backend: ModuleType) -> None:
    vocab_size, count = 300, 200
    allowed = {0, 31, 32, 63, 255, 299}
    word_bits = sum(1 << token for token in allowed).to_bytes(40, "little")
    masks = torch.frombuffer(bytearray(word_bits * count), dtype=torch.int32).view(count, 10)
    logits = torch.randn(count, vocab_size) * 3
    backend.apply_masks(logits, torch.arange(count), masks)
    ones = torch.ones(count)
    drawn = backend.sample(logits, ones, ones.int() * 0, ones, torch.arange(count), torch.arange(count))
    assert set(drawn.tolist()) == allowed
