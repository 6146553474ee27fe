"""The laws of arrivals: their rate, their burstiness, and the same times for the same seed."""

import math

import numpy as np
import pytest

from gllm.bench.arrivals import Ramp, arrival_times
from gllm.bench.errors import BenchError

COUNT = 20000


def gaps(
    burstiness: float, rate: float = 10.0, seed: int = 1
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.diff(arrival_times(COUNT, rate, burstiness, np.random.default_rng(seed)))


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_rate_and_the_spread_of_the_gamma_law(burstiness: float) -> None:
    found = gaps(burstiness)
    assert (found >= 0).all()
    assert found.mean() == pytest.approx(0.1, rel=0.01)
    assert found.std() / found.mean() == pytest.approx(burstiness**-0.5, rel=0.05)


def test_poisson_gaps_forget_how_long_they_have_lasted() -> None:
    found = gaps(1.0)
    assert (found > 0.1).mean() == pytest.approx(math.exp(-1), abs=0.015)
    assert (found[found > 0.1] > 0.2).mean() == pytest.approx(math.exp(-1), abs=0.025)


def test_the_last_request_comes_when_the_rate_says() -> None:
    for seed in range(5):
        assert arrival_times(40, 8.0, 1.0, np.random.default_rng(seed))[-1] == pytest.approx(5.0)


def test_a_seed_decides_the_times() -> None:
    assert (gaps(1.0, seed=3) == gaps(1.0, seed=3)).all()
    assert (gaps(1.0, seed=3) != gaps(1.0, seed=4)).any()


def test_an_infinite_rate_sends_all_at_once() -> None:
    assert arrival_times(3, math.inf, 1.0, np.random.default_rng(0)) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("strategy", ["linear", "exponential"])
def test_a_ramp_begins_and_ends_at_its_rates(strategy: str) -> None:
    times = arrival_times(COUNT, math.inf, 1.0, np.random.default_rng(1), Ramp(strategy, 5.0, 50.0))
    found = np.diff(times)
    assert 1 / found[:500].mean() == pytest.approx(5.0, rel=0.15)
    assert 1 / found[-500:].mean() == pytest.approx(50.0, rel=0.15)
    middle = 27.5 if strategy == "linear" else 5 * 10**0.5
    assert 1 / found[COUNT // 2 - 250 : COUNT // 2 + 250].mean() == pytest.approx(middle, rel=0.15)


@pytest.mark.parametrize(("rate", "burstiness"), [(0, 1), (-1, 1), (math.nan, 1), (1, 0), (1, math.nan)])
def test_laws_that_cannot_be_are_refused(rate: float, burstiness: float) -> None:
    with pytest.raises(BenchError, match="above 0"):
        arrival_times(3, rate, burstiness, np.random.default_rng(0))
    with pytest.raises(BenchError, match="ramp up"):
        Ramp("linear", 5, 5)
