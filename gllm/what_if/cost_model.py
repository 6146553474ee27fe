"""How long a worker's step takes, learnt from steps that were timed.

    seconds = constant + token * tokens + row * rows + context * context tokens

Non-negative least squares, so that more work never takes less time. Knows numbers only, not whose.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

NUM_TERMS = 4
OUTLIERS = 100  # one step in so many is left out: the longest way off, a first one that compiles, say
SINGULAR = 1e-9


@dataclass(frozen=True, slots=True)
class Work:
    """What one step computes."""

    num_tokens: int
    num_rows: int
    num_context_tokens: int  # whose keys and values the rows read, their own included

    @property
    def terms(self) -> tuple[float, ...]:
        return 1.0, self.num_tokens, self.num_rows, self.num_context_tokens


@dataclass(frozen=True, slots=True)
class Timed:
    """A step and how long it took."""

    work: Work
    seconds: float


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of a step, by term."""

    constant: float
    token: float
    row: float
    context: float

    def seconds(self, work: Work) -> float:
        return (
            self.constant
            + self.token * work.num_tokens
            + self.row * work.num_rows
            + self.context * work.num_context_tokens
        )

    def median_error(self, steps: Sequence[Timed]) -> float:
        """How far the cost is from half of `steps` at most, relative to them."""
        return median(abs(self.seconds(step.work) / step.seconds - 1.0) for step in steps if step.seconds)

    def __str__(self) -> str:
        return (
            f"{1e3 * self.constant:.3f} ms + {1e6 * self.token:.3f} us a token "
            f"+ {1e6 * self.row:.3f} us a row + {1e9 * self.context:.3f} ns a context token"
        )


def fit(steps: Sequence[Timed]) -> StepCost:
    """The cost that fits `steps` best, the few that lie farthest off left out."""
    first = _fit(steps)
    ordered = sorted(steps, key=lambda step: abs(first.seconds(step.work) - step.seconds))
    return _fit(ordered[: len(ordered) - len(ordered) // OUTLIERS])


def _fit(steps: Sequence[Timed]) -> StepCost:
    """Exact for so few terms: the optimum is the plain least squares of the terms that are not zero,
    so every set of terms is tried."""
    scale = [max((step.work.terms[i] for step in steps), default=0.0) or 1.0 for i in range(NUM_TERMS)]
    products = [[0.0] * NUM_TERMS for _ in range(NUM_TERMS)]
    targets = [0.0] * NUM_TERMS
    for step in steps:
        terms = [term / unit for term, unit in zip(step.work.terms, scale, strict=True)]
        for i, term in enumerate(terms):
            targets[i] += term * step.seconds
            for j in range(NUM_TERMS):
                products[i][j] += term * terms[j]
    best, least = [0.0] * NUM_TERMS, 0.0
    for size in range(1, NUM_TERMS + 1):
        for chosen in combinations(range(NUM_TERMS), size):
            matrix = [[products[i][j] for j in chosen] for i in chosen]
            solution = _solve(matrix, [targets[i] for i in chosen])
            if solution is None or min(solution) < 0:
                continue
            # Of the sum of squares, the part that depends on the solution; at an optimum it is -x'b.
            error = -sum(x * targets[i] for x, i in zip(solution, chosen, strict=True))
            if error < least:
                least, best = error, [0.0] * NUM_TERMS
                for x, i in zip(solution, chosen, strict=True):
                    best[i] = x
    return StepCost(*[x / unit for x, unit in zip(best, scale, strict=True)])


def _solve(matrix: list[list[float]], target: list[float]) -> list[float] | None:
    """The x of matrix x = target by elimination with pivots; None if there is no single one."""
    size = len(target)
    rows = [[*row, value] for row, value in zip(matrix, target, strict=True)]
    limit = SINGULAR * max(abs(value) for row in matrix for value in row)
    for i in range(size):
        pivot = max(range(i, size), key=lambda r: abs(rows[r][i]))
        if abs(rows[pivot][i]) <= limit:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(i + 1, size):
            factor = rows[r][i] / rows[i][i]
            rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i], strict=True)]
    solution = [0.0] * size
    for i in reversed(range(size)):
        known = sum(rows[i][j] * solution[j] for j in range(i + 1, size))
        solution[i] = (rows[i][size] - known) / rows[i][i]
    return solution
