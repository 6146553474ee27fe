"""When requests arrive: all at once, by Poisson or gamma gaps, or at a rate that grows.

Pure: a generator in, seconds out. Knows nothing of requests or clocks.
"""

import math
from dataclasses import dataclass

import numpy as np

from gllm.bench.errors import BenchError


@dataclass(frozen=True, slots=True)
class Ramp:
    """A request rate that goes from `start` to `end`, in requests a second, over all requests."""

    strategy: str  # linear or exponential
    start: float
    end: float

    def __post_init__(self) -> None:
        if not 0 < self.start < self.end < math.inf:
            raise BenchError(f"the rate cannot ramp up from {self.start:g} to {self.end:g}: 0 < start < end")

    def rates(self, count: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        progress = np.linspace(0.0, 1.0, count)
        if self.strategy == "linear":
            return self.start + (self.end - self.start) * progress
        return self.start * (self.end / self.start) ** progress


def arrival_times(
    count: int, rate: float, burstiness: float, rng: np.random.Generator, ramp: Ramp | None = None
) -> list[float]:
    """Seconds after the start at which `count` requests arrive, in order.

    rate: requests a second; infinite: all at once. burstiness: the shape of the gamma law of the
    gaps; 1 is Poisson, less is burstier. As in vLLM, the times are stretched so that the last
    request comes at exactly count / rate: runs with other seeds then offer the same load. With a
    ramp its rates go before `rate`, and nothing is stretched.
    """
    if not burstiness > 0:
        raise BenchError(f"burstiness is {burstiness:g}, expected a number above 0: 1 is Poisson")
    if ramp is not None:
        times = np.cumsum(rng.gamma(burstiness, 1 / burstiness, count) / ramp.rates(count))
        return list(map(float, times))
    if not rate > 0:
        raise BenchError(f"the request rate is {rate:g}, expected a number above 0, or inf for all at once")
    if math.isinf(rate) or not count:
        return [0.0] * count
    times = np.cumsum(rng.gamma(burstiness, 1 / (rate * burstiness), count))
    return list(map(float, times * (count / rate / times[-1])))
