"""What a token may depend on, and how often it is drawn."""

import random

import pytest
import torch
from torch import Tensor

from gllm.kernels import cpu, cpu_sampling, reference, reference_logits

torch.set_num_threads(1)


def draw_rows(seed: int, rows: int, vocab: int) -> dict[str, Tensor]:
    """Random arguments of `sample`, with every kind of row among them."""
    draw = random.Random(seed)
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * draw.choice(
        [0.5, 3, 20]
    )
    if draw.random() < 0.3:
        logits = logits.round()  # many equals
    return {
        "logits": logits,
        "temperature": torch.tensor([draw.choice([0.0, 1e-7, 0.3, 1.0, 2.0, 100.0]) for _ in range(rows)]),
        "top_k": torch.tensor([draw.choice([0, 1, 2, 7, vocab, vocab + 5]) for _ in range(rows)]).int(),
        "top_p": torch.tensor([draw.choice([1e-9, 0.1, 0.5, 0.9, 1.0]) for _ in range(rows)]),
        "seed": torch.tensor([draw.randrange(2**63) for _ in range(rows)]),
        "position": torch.tensor([draw.randrange(2**31) for _ in range(rows)]),
    }


@pytest.mark.parametrize("seed", range(40))
def test_the_fast_sampler_draws_what_the_reference_draws(seed: int) -> None:
    print("seed", seed)
    arguments = draw_rows(seed, rows=1 + seed % 9, vocab=[3, 50, 2000, 5003][seed % 4])
    assert torch.equal(cpu.sample(**arguments), reference.sample(**arguments))


def test_a_token_depends_on_its_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = draw_rows(3, rows=64, vocab=301)
    together = cpu.sample(**arguments)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(cpu.sample(**{name: x[order] for name, x in arguments.items()}), together[order])
    alone = [cpu.sample(**{name: x[i : i + 1] for name, x in arguments.items()}) for i in range(64)]
    assert torch.equal(torch.cat(alone), together)
    monkeypatch.setattr(cpu_sampling, "SAMPLE_BLOCK", 1000)  # three rows at once
    assert torch.equal(cpu.sample(**arguments), together)


def test_the_generator_is_philox() -> None:
    # Known answers of the Random123 distribution (kat_vectors, philox4x32 10): the first words.
    cases = [(0, 0, 0x6627E8D5)]
    for seed, position, word in cases:
        expected = (word + 0.5) / 2**32
        assert reference_logits.uniform(torch.tensor([seed]), torch.tensor([position])).item() == expected
    seeds = torch.randint(0, 2**63 - 1, (1000,), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(1000) * 4_000_037
    drawn = reference_logits.uniform(seeds, positions)
    assert torch.equal(torch.from_numpy(cpu_sampling.uniform(seeds.numpy(), positions.numpy())), drawn)
    assert 0 < drawn.min() < 0.01
    assert 0.99 < drawn.max() < 1


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.5, 4, 1.0), (1.0, 0, 0.6), (2.0, 5, 0.8)],
)
def test_tokens_come_as_often_as_their_probability_says(temperature: float, top_k: int, top_p: float) -> None:
    count = 40_000
    logits = torch.tensor([2.0, 1.5, 1.0, 0.0, -0.5, -1.0, 0.5, 1.0])
    tokens = cpu.sample(
        logits.expand(count, -1),
        torch.full((count,), temperature),
        torch.full((count,), top_k).int(),
        torch.full((count,), top_p),
        torch.full((count,), 1234),
        torch.arange(count),
    )
    # The definition once more, by the plainest means.
    ranked = sorted(range(8), key=lambda token: (-logits[token].item(), token))
    kept = ranked[: top_k or 8]
    weights = {token: torch.exp(logits[token] / temperature).item() for token in kept}
    total, cumulated, chosen = sum(weights.values()), 0.0, []
    for token in kept:
        if not chosen or cumulated < top_p:
            chosen.append(token)
        cumulated += weights[token] / total
    total = sum(weights[token] for token in chosen)
    assert set(tokens.tolist()) == set(chosen)
    for token in chosen:
        share = weights[token] / total
        # Five standard deviations of a binomial share: fails by chance once in two million cases.
        assert abs((tokens == token).float().mean() - share) < 5 * (share * (1 - share) / count) ** 0.5


def test_among_equals_the_lowest_id_is_the_greedy_one() -> None:
    logits = torch.zeros(3, 1000)
    logits[1, 700] = logits[1, 30] = 1.0
    logits[2, 999] = 1.0
    assert cpu.greedy(logits).tolist() == [0, 30, 999]
    zeros = torch.zeros(3)
    drawn = cpu.sample(logits, zeros, zeros.int(), zeros + 1, zeros.long(), zeros.long())
    assert drawn.tolist() == [0, 30, 999]


def test_top_p_of_equals_keeps_the_lowest_ids() -> None:
    count = 200
    tokens = cpu.sample(
        torch.zeros(count, 3000),  # all alike: half of the probability is the first 1500 ids
        torch.ones(count),
        torch.zeros(count).int(),
        torch.full((count,), 0.5),
        torch.arange(count),
        torch.zeros(count).long(),
    )
    assert tokens.max() < 1500 + 1
    assert len(set(tokens.tolist())) > 150


@pytest.mark.parametrize("backend", [cpu, reference])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_give_a_token_of_the_vocabulary_and_leave_neighbours_alone(
    backend: object, value: float
) -> None:
    arguments = draw_rows(1, rows=9, vocab=40)
    expected = cpu.sample(**arguments)
    arguments["logits"][4] = value
    tokens = backend.sample(**arguments)
    assert 0 <= tokens[4] < 40
    kept = torch.arange(9) != 4
    assert torch.equal(tokens[kept], expected[kept])
