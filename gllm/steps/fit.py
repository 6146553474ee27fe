"""Coefficients of a fitted step from measured steps: non-negative least squares of relative errors.

Knows shapes and seconds, not how they were measured.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from gllm.steps.cost import TERMS, FitError, Fitted, terms
from gllm.steps.shape import StepShape

NO_BETTER = 1e-12  # of the target's square: errors that differ by less are equal but for rounding

Floats = npt.NDArray[np.float64]


def non_negative_least_squares(matrix: Floats, target: Floats) -> Floats:
    """The x >= 0 that minimises |matrix x - target|; of several the one with the fewest columns.

    Exact, for a few columns: an optimum is the plain least squares of the columns where x > 0, so
    that each set of columns is tried.
    """
    num_columns = matrix.shape[1]
    # The triangle of a QR factorisation has the same optima, whatever the number of rows.
    triangle: Floats = np.asarray(np.linalg.qr(np.column_stack([matrix, target]), mode="r"))
    matrix, target = triangle[:, :-1], triangle[:, -1]
    best, least = np.zeros(num_columns), float(target @ target)
    noise = NO_BETTER * least
    for size in range(1, num_columns + 1):
        for columns in map(list, combinations(range(num_columns), size)):
            solution = np.linalg.lstsq(matrix[:, columns], target, rcond=None)[0]
            off = matrix[:, columns] @ solution - target
            if (solution >= 0).all() and float(off @ off) < least - noise:
                best, least = np.zeros(num_columns), float(off @ off)
                best[columns] = solution
    return best


def fit(shapes: Sequence[StepShape], seconds: Sequence[float]) -> tuple[Fitted, FitError]:
    """The fitted step for `shapes` that took `seconds`, and how far it is from them."""
    measured = np.array(seconds)
    matrix = np.array([terms(shape) for shape in shapes])
    # Divided by what was measured, a short step counts as much as a long one; columns of like size
    # keep the equations well conditioned.
    relative = matrix / measured[:, None]
    scale = np.linalg.norm(relative, axis=0)
    scale[scale == 0] = 1.0  # a term that no step had gets no seconds
    coefficients = non_negative_least_squares(relative / scale, np.ones(len(measured))) / scale
    off = np.abs(matrix @ coefficients / measured - 1.0)
    error = FitError(num_steps=len(measured), median=float(np.median(off)), p90=float(np.percentile(off, 90)))
    named = {f"{term}_s": float(value) for term, value in zip(TERMS, coefficients, strict=True)}
    return Fitted.model_validate(named), error
