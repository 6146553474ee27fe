"""The highest request rate that keeps an SLO, and the best of a few settings; over any simulator.

Knows figures of runs (see `report.summary`), not how a run is made.
"""

from collections.abc import Callable, Mapping
from typing import Any

Figures = Mapping[str, Any]

MAX_FACTOR = 2.0**8  # how far from the first guess a rate is looked for


def highest_rate(
    attainment: Callable[[float], float], guess: float, share: float, tolerance: float = 0.03
) -> float | None:
    """A rate (1/s) at which at least `share` of the requests keep the SLO, and less do at one that is
    higher by `tolerance`; None if no rate is low enough.

    attainment: the share of requests within the SLO at a rate, which falls as the rate grows. The
    search ends where half the rate helps nobody: then it is not the load that breaks the SLO. It also
    ends `MAX_FACTOR` times above or below the guess: above, the trace is too short for its rate to matter.
    """
    good = bad = guess
    kept = attainment(guess)
    if kept >= share:
        while attainment(bad := good * 2) >= share:
            good = bad
            if good >= guess * MAX_FACTOR:
                return good
    else:
        while (kept_at_half := attainment(good := bad / 2)) < share:
            if kept_at_half <= kept > 0 or good <= guess / MAX_FACTOR:
                return None
            bad, kept = good, kept_at_half
    while bad / good > 1 + tolerance:
        middle = (good * bad) ** 0.5
        if attainment(middle) >= share:
            good = middle
        else:
            bad = middle
    return good


def best(runs: Mapping[int, Figures]) -> int:
    """The setting whose run kept most requests within the SLO; among equals the lowest mean latency."""

    def merit(setting: int) -> tuple[float, float]:
        # A tenth of a per cent is a few requests: not worth a slower answer to all others.
        figures = runs[setting]
        return round(figures.get("slo_attainment", 1.0), 3), -figures["mean_e2el_ms"]

    return max(runs, key=merit)
