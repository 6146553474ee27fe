"""Sampling in Triton, interpreted, against the reference: the same tokens, from the same random numbers."""

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from gllm.kernels import reference, reference_logits, sampling

pytestmark = pytest.mark.usefixtures("interpreter")


@triton.jit
def _uniforms(seeds, positions, out):
    row = tl.program_id(0)
    tl.store(out + row, sampling.uniform(tl.load(seeds + row), tl.load(positions + row)))


def test_random_numbers_are_those_of_the_reference_bit_for_bit() -> None:
    torch.manual_seed(0)
    seeds, positions = torch.randint(0, 2**63 - 1, (30,)), torch.randint(0, 2**40, (30,))
    seeds[:3], positions[:3] = torch.tensor([0, 1, 2**63 - 1]), torch.tensor([0, 2**32, 1])
    drawn = torch.zeros(30, dtype=torch.float64)
    _uniforms[(30,)](seeds, positions, drawn)
    assert torch.equal(drawn, reference_logits.uniform(seeds, positions))


def columns(rows: int, seed: int) -> tuple[Tensor, ...]:
    """temperature, top_k, top_p, seed, position: every filter alone, both, and none; greedy rows between."""
    temperature = torch.tensor([0.0, 0.5, 1.0, 1.7, 1.0])
    top_k = torch.tensor([0, 1, 20, 0, 300, 0, 10**6], dtype=torch.int32)
    top_p = torch.tensor([1.0, 0.9, 0.0, 0.5, 0.999, 1.0])
    index = torch.arange(rows)
    generator = torch.Generator().manual_seed(seed)
    seeds = torch.randint(0, 2**63 - 1, (rows,), generator=generator)
    return temperature[index % 5], top_k[index % 7], top_p[index % 6], seeds, index * 1000


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_tokens_are_those_of_the_reference(spread: float, ties: bool) -> None:
    """Flat logits overflow the list of likely tokens, peaked ones fit; ties are broken by the lower id."""
    torch.manual_seed(1)
    logits = torch.randn(16, 8300) * spread
    if ties:
        logits = logits.round(decimals=1)
    arguments = columns(16, seed=2)
    out = torch.full((16,), -1)
    got = sampling.sample(logits, *arguments, out=out)
    assert got is out
    want = reference.sample(logits, *arguments)
    # A draw may fall on the other side of a border that rounding moved: once in a million, not here.
    assert got.tolist() == want.tolist()


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_min_p_keeps_what_the_reference_keeps(spread: float, ties: bool) -> None:
    """Alone, on a list or on all logits, and behind the other filters; some rows have none."""
    torch.manual_seed(4)
    logits = (torch.randn(24, 8300) * spread).round(decimals=1 if ties else 6)
    log_min_p = torch.tensor([0.0, 1e-8, 0.02, 0.3, 1.0]).log()[torch.arange(24) % 5]
    arguments = columns(24, seed=5)
    got = sampling.sample(logits, *arguments, log_min_p)
    assert got.tolist() == reference.sample(logits, *arguments, log_min_p).tolist()
    assert got.tolist() != reference.sample(logits, *arguments).tolist()


def test_rows_of_several_parts_are_drawn_as_the_reference_draws() -> None:
    """The last part is short; likely tokens lie in all of them, in one, and in the last alone."""
    torch.manual_seed(7)
    logits = torch.randn(6, 2 * sampling.PART + 300) * torch.tensor([0.5, 2.0, 5.0]).repeat(2)[:, None]
    logits[3, 100:200] += 30.0
    logits[4, -50:] += 30.0
    arguments = columns(6, seed=8)
    assert sampling.sample(logits, *arguments).tolist() == reference.sample(logits, *arguments).tolist()
    everything = torch.ones(6), torch.zeros(6, dtype=torch.int32), torch.ones(6), *arguments[3:]
    assert sampling.sample(logits, *everything).tolist() == reference.sample(logits, *everything).tolist()


def test_greedy_takes_the_lowest_id_of_the_likeliest() -> None:
    logits = torch.randn(4, 5000).bfloat16()
    logits[0, [17, 4000]] = 9.0
    logits[1, [4999]] = 9.0
    logits[2] = float("nan")
    tokens = sampling.greedy(logits)
    assert tokens[:2].tolist() == [17, 4999]
    assert 0 <= int(tokens[2]) < 5000
    assert tokens[3] == logits[3].float().argmax()


def test_a_row_of_nan_still_yields_a_token_that_exists() -> None:
    logits = torch.full((7, 300), float("nan"))
    tokens = sampling.sample(logits, *columns(7, seed=0))
    assert ((tokens >= 0) & (tokens < 300)).all()


def test_a_rows_token_does_not_depend_on_its_company() -> None:
    logits = torch.randn(6, 3000)
    arguments = columns(6, seed=3)
    together = sampling.sample(logits, *arguments)
    for row in range(6):
        alone = sampling.sample(logits[row : row + 1], *(column[row : row + 1] for column in arguments))
        assert alone[0] == together[row]
