"""Masks, bans, biases, penalties, min_p, log-probabilities: as plain numpy has them, the fast as the slow."""

import random
from types import ModuleType

import numpy as np
import pytest
import torch

from gllm.kernels import cpu, reference
from gllm.kernels.reference_logits import IN_PROMPT

torch.set_num_threads(1)

BACKENDS = [reference, cpu]


def made_logits(seed: int, rows: int, vocab: int) -> torch.Tensor:
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3
    return logits.round() if seed % 3 == 0 else logits  # many equals, and zeros of both signs


@pytest.mark.parametrize("ops", BACKENDS)
@pytest.mark.parametrize("seed", range(6))
def test_penalties_are_those_of_their_formulas(ops: ModuleType, seed: int) -> None:
    draw = np.random.default_rng(seed)
    logits, num_slots, vocab = made_logits(seed, 5, 37), 9, 37
    rows, slots = draw.permutation(5)[:3], draw.permutation(num_slots)[:3]
    prompts = [draw.integers(0, vocab, 8) for _ in slots]
    outputs = [draw.integers(0, vocab, 12) for _ in slots]
    repetition, frequency = draw.uniform(0.5, 2, 3), draw.uniform(-2, 2, 3)
    presence = draw.uniform(-2, 2, 3)
    expected = logits.numpy().astype(np.float64)
    counts = torch.from_numpy(draw.integers(0, 5, (num_slots, vocab)).astype(np.int32))  # of others
    for row, slot, prompt, output, r, f, p in zip(
        rows, slots, prompts, outputs, repetition, frequency, presence, strict=True
    ):
        counts[slot] = torch.from_numpy(np.bincount(output, minlength=vocab))
        counts[slot, np.unique(prompt)] |= IN_PROMPT
        for token in range(vocab):
            x = expected[row, token]
            number = int((output == token).sum())
            if number or token in prompt:
                x = x / r if x > 0 else x * r
            expected[row, token] = x - f * number - p * (number > 0)
    columns = [torch.from_numpy(x.astype(np.float32)) for x in (repetition, frequency, presence)]
    ops.penalize(logits, torch.from_numpy(rows), torch.from_numpy(slots), counts, *columns)
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ops", BACKENDS)
def test_a_bias_is_added_and_a_ban_wins(ops: ModuleType) -> None:
    logits = torch.zeros(3, 4)
    rows, tokens = torch.tensor([0, 2, 2, 2]), torch.tensor([1, 3, 0, 3])
    ops.add_to_logits(logits, rows, tokens, torch.tensor([1.5, -2.0, 4.0, float("-inf")]))
    assert logits.tolist() == [[0, 1.5, 0, 0], [0, 0, 0, 0], [4, 0, 0, float("-inf")]]


@pytest.mark.parametrize("ops", BACKENDS)
@pytest.mark.parametrize("seed", range(30))
def test_a_bad_word_is_never_completed(ops: ModuleType, seed: int) -> None:
    print("seed", seed)
    draw = random.Random(seed)
    vocab, window, num_slots = 4, 5, 3  # few tokens: words are often about to be completed
    words = [[draw.randrange(vocab) for _ in range(draw.randint(1, window + 1))] for _ in range(12)]
    logits, recent = torch.zeros(num_slots, vocab), torch.full((num_slots, window), -1, dtype=torch.int32)
    expected = logits.clone()
    columns: dict[str, list[int]] = {"rows": [], "slots": [], "position": []}
    for row, slot in enumerate(draw.sample(range(num_slots), num_slots)):
        first = draw.randrange(20)  # the prompt's length: its tokens count for nothing
        output = [draw.randrange(vocab) for _ in range(draw.randrange(9))]
        for position, token in enumerate(output, first):
            recent[slot, position % window] = token
        for word in words:
            columns["rows"].append(row)
            columns["slots"].append(slot)
            columns["position"].append(first + len(output))
            if len(output) >= len(word) - 1 and output[len(output) - len(word) + 1 :] == word[:-1]:
                expected[row, word[-1]] = float("-inf")
    packed = torch.tensor([[-1] * (window + 1 - len(w)) + w for w in words] * num_slots, dtype=torch.int32)
    ops.ban_words(
        logits, **{name: torch.tensor(x) for name, x in columns.items()}, words=packed, recent=recent
    )
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("ops", BACKENDS)
@pytest.mark.parametrize(("seed", "num_top"), [(0, 0), (1, 5), (3, 37), (6, 3)])
def test_log_probabilities_are_those_of_softmax(
    ops: ModuleType, seed: int, num_top: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gllm.kernels.cpu_logits.LOGPROBS_BLOCK", 37 * 4)
    logits = made_logits(seed, 11, 37)
    before = logits.clone()
    tokens = torch.randint(0, 37, (11,), generator=torch.Generator().manual_seed(seed))
    ranks, ids, values = ops.logprobs(logits, tokens, num_top)
    assert torch.equal(logits, before)
    wide = logits.numpy().astype(np.float64)
    exact = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    for row, token in enumerate(tokens.tolist()):
        order = sorted(range(37), key=lambda other, row=row: (-wide[row, other], other))  # type: ignore[misc]
        assert ids[row].tolist() == [token, *order[:num_top]]
        np.testing.assert_allclose(values[row].numpy(), exact[row][ids[row].numpy()], atol=1e-5)
        assert ranks[row] == 1 + sum(wide[row] > wide[row, token])


def test_the_fast_log_probabilities_list_the_tokens_that_the_reference_lists() -> None:
    logits = torch.cat([made_logits(seed, 4, 1000) for seed in range(4)])
    logits[0, ::2] = float("-inf")
    logits[1] = -0.0
    logits[1, ::3] = 0.0
    tokens = torch.randint(0, 1000, (16,), generator=torch.Generator().manual_seed(1))
    for fast, slow in zip(
        cpu.logprobs(logits, tokens, 20), reference.logprobs(logits, tokens, 20), strict=True
    ):
        assert torch.equal(fast, slow) if fast.dtype is torch.int64 else torch.allclose(fast, slow, atol=1e-5)


def kept_by(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> set[int]:
    """Tokens that the filters leave, by their definitions; no two logits are equal."""
    scaled = logits.astype(np.float64) / temperature
    order = list(np.argsort(-scaled))[: top_k or len(logits)]
    share = np.exp(scaled[order] - scaled[order].max())
    share /= share.sum()
    before = np.cumsum(share) - share
    return {
        int(t) for t, s, b in zip(order, share, before, strict=True) if b < top_p and s >= min_p * share[0]
    }


@pytest.mark.parametrize("seed", range(12))
def test_min_p_leaves_tokens_with_a_share_of_the_likeliest(seed: int) -> None:
    print("seed", seed)
    draw = random.Random(seed)
    vocab, temperature = 40, draw.choice([0.5, 1.0, 1.7])
    top_k, top_p, min_p = draw.choice([0, 6]), draw.choice([1.0, 0.8]), draw.choice([0.02, 0.2, 1.0])
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * 2
    rows = 600
    arguments = {
        "logits": logits.repeat(rows, 1),
        "temperature": torch.full((rows,), temperature),
        "top_k": torch.full((rows,), top_k, dtype=torch.int32),
        "top_p": torch.full((rows,), top_p),
        "seed": torch.arange(rows),
        "position": torch.zeros(rows, dtype=torch.int64),
        "log_min_p": torch.full((rows,), min_p).log(),
    }
    tokens = cpu.sample(**arguments)
    assert torch.equal(tokens, reference.sample(**arguments))
    kept = kept_by(logits.numpy(), temperature, top_k, top_p, min_p)
    assert set(tokens.tolist()) <= kept
    # Each is drawn as often as its share of what is kept says.
    share = np.array([np.exp(logits[t].item() / temperature) for t in sorted(kept)])
    drawn = np.array([(tokens == t).sum().item() for t in sorted(kept)])
    assert abs(drawn / rows - share / share.sum()).max() < 0.09
    none = arguments | {"log_min_p": torch.full((rows,), float("-inf"))}
    assert torch.equal(
        cpu.sample(**none), cpu.sample(**{k: v for k, v in arguments.items() if k != "log_min_p"})
    )
