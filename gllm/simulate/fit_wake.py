"""What a pause adds to a step, from steps behind pauses. Knows seconds, not how they were measured."""

from collections.abc import Sequence

import numpy as np

from gllm.simulate.cost import Wake

TIME_CONSTANTS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def fit_wake(pauses: Sequence[float], more: Sequence[float]) -> Wake:
    """The `Wake` for steps that took `more` seconds behind `pauses` than without one."""
    candidates = []
    for pause_s in TIME_CONSTANTS_S:
        grown = -np.expm1(-np.array(pauses) / pause_s)
        longest_s = max(float(grown @ np.array(more) / (grown @ grown)), 0.0)
        off = float(np.square(longest_s * grown - more).sum())
        candidates.append((off, Wake(longest_s=longest_s, pause_s=pause_s)))
    return min(candidates, key=lambda candidate: candidate[0])[1]
