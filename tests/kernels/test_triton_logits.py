"""What changes and reads logits in Triton, interpreted, against the reference."""

import random

import pytest
import torch
from torch import Tensor

from gllm.kernels import logits as triton_logits
from gllm.kernels import logprobs as triton_logprobs
from gllm.kernels import reference
from gllm.kernels.reference_logits import IN_PROMPT

pytestmark = pytest.mark.usefixtures("interpreter")
VOCAB = 5003  # more than one program looks at, and no multiple of anything


def made_rows(seed: int, rows: int, vocab: int = VOCAB) -> tuple[Tensor, Tensor]:
    """The same logits twice; those of the second lie in a wider tensor full of NaN."""
    drawn = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3
    drawn = drawn.round() if seed % 2 else drawn  # many equals, and zeros of both signs
    wide = torch.full((rows, vocab + 5), float("nan"))
    wide[:, :vocab] = drawn
    return drawn, wide[:, :vocab]


def nothing_else_was_written(logits: Tensor) -> bool:
    whole = logits.as_strided((len(logits), VOCAB + 5), logits.stride())
    return bool(whole[:, VOCAB:].isnan().all())


@pytest.mark.parametrize("seed", range(2))
def test_masks_forbid_as_the_reference(seed: int) -> None:
    want, got = made_rows(seed, 7)
    rows = torch.tensor([5, 0, 3])
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31, (3, -(-VOCAB // 32)), dtype=torch.int32, generator=generator)
    bits[1, 5:] = 0
    bits[2, :-1] = -1
    reference.apply_masks(want, rows, bits)
    triton_logits.apply_masks(got, rows, bits)
    assert torch.equal(got, want)
    assert nothing_else_was_written(got)


@pytest.mark.parametrize("seed", range(4))
def test_bad_words_are_banned_as_by_the_reference(seed: int) -> None:
    draw = random.Random(seed)
    window, num_slots, vocab = draw.choice([1, 4, 5]), 6, 4  # few tokens, many words
    want, got = made_rows(seed, 4, vocab)
    recent = torch.tensor([draw.randrange(-1, vocab) for _ in range(num_slots * window)]).int()
    recent = recent.view(num_slots, window)
    places = [(row, slot, draw.randrange(12)) for row, slot in enumerate(draw.sample(range(num_slots), 4))]
    columns = torch.tensor([place for place in places for _ in range(8)]).T
    words = []
    for _ in columns[0]:
        word = [draw.randrange(vocab) for _ in range(draw.randint(1, window + 1))]
        words.append([-1] * (window + 1 - len(word)) + word)
    arguments = *(column.contiguous() for column in columns), torch.tensor(words).int(), recent
    reference.ban_words(want, *arguments)
    triton_logits.ban_words(got, *arguments)
    assert want.isinf().any()
    assert torch.equal(got, want)


def test_single_logits_are_biased_and_banned_as_by_the_reference() -> None:
    want, got = made_rows(0, 3)
    places = torch.randperm(3 * VOCAB, generator=torch.Generator().manual_seed(0))[:600]
    values = torch.randn(600, generator=torch.Generator().manual_seed(1))
    values[:50] = float("-inf")
    twice = torch.cat([places, places[-40:]])  # a bias and a ban for one place
    values = torch.cat([values, torch.full((40,), float("-inf"))])
    reference.add_to_logits(want, twice // VOCAB, twice % VOCAB, values)
    triton_logits.add_to_logits(got, twice // VOCAB, twice % VOCAB, values)
    assert torch.equal(got, want)
    assert nothing_else_was_written(got)


@pytest.mark.parametrize("seed", range(2))
def test_penalties_are_those_of_the_reference(seed: int) -> None:
    want, got = made_rows(seed, 5)
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(-3, 5, (9, VOCAB), generator=generator).clamp(min=0).int()
    counts[torch.rand(9, VOCAB, generator=generator) < 0.2] |= IN_PROMPT
    rows, slots = torch.tensor([4, 0, 2]), torch.tensor([1, 8, 3])
    repetition, frequency, presence = torch.rand(3, 3, generator=generator) * 2 - torch.tensor(
        [[-0.1], [1.0], [1.0]]
    )
    reference.penalize(want, rows, slots, counts, repetition, frequency, presence)
    triton_logits.penalize(got, rows, slots, counts, repetition, frequency, presence)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert torch.equal(got[1], want[1])
    assert nothing_else_was_written(got)


@pytest.mark.parametrize(("seed", "num_top"), [(0, 0), (1, 1), (2, 5), (3, 20), (5, 33), (1, 70)])
def test_log_probabilities_are_those_of_the_reference(seed: int, num_top: int) -> None:
    """Also where a part of the row is forbidden, and where all logits are equal."""
    want, got = made_rows(seed, 6)
    for logits in (want, got):
        logits[1, 100:] = float("-inf")
        logits[2] = -0.0
        logits[2, ::3] = 0.0
    tokens = torch.randint(0, 100, (6,), generator=torch.Generator().manual_seed(seed))
    found = triton_logprobs.logprobs(got, tokens, num_top)
    expected = reference.logprobs(want, tokens, num_top)
    for one, other in zip(found[:2], expected[:2], strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(found[2], expected[2], atol=1e-5, rtol=1e-5)
    assert torch.equal(got, want)


def test_vocabularies_of_one_part_and_of_one_token_more_are_listed() -> None:
    for vocab in (37, triton_logprobs.PART, 2 * triton_logprobs.PART + 1):
        logits, _ = made_rows(1, 3, vocab)
        tokens = torch.tensor([0, 5, vocab - 1])
        found = triton_logprobs.logprobs(logits, tokens, 7)
        assert torch.equal(found[1], reference.logprobs(logits, tokens, 7)[1])


def test_with_no_rows_nothing_is_launched() -> None:
    logits, none, some = torch.randn(2, 30), torch.empty(0, dtype=torch.int64), torch.empty(0)
    before = logits.clone()
    triton_logits.apply_masks(logits, none, torch.empty(0, 1, dtype=torch.int32))
    triton_logits.ban_words(logits, none, none, none, torch.empty(0, 3).int(), torch.zeros(2, 4).int())
    triton_logits.add_to_logits(logits, none, none, some)
    triton_logits.penalize(logits, none, none, torch.zeros(2, 30).int(), some, some, some)
    assert torch.equal(logits, before)
    assert triton_logprobs.logprobs(logits[:0], none, 3)[1].shape == (0, 4)
