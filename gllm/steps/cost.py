"""How long a step takes that is linear in its shape: the form of what is fitted to measured steps.

Knows coefficients, not how they are found.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt

from gllm.steps.shape import StepShape

TERMS = ("step", "token", "row", "chunk", "context_token", "pair")


class Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Fitted(Part):
    """Seconds for the step itself and for each unit of its shape; see `terms`."""

    kind: Literal["fitted"] = "fitted"
    step_s: NonNegativeFloat
    token_s: NonNegativeFloat
    row_s: NonNegativeFloat
    chunk_s: NonNegativeFloat
    context_token_s: NonNegativeFloat
    pair_s: NonNegativeFloat

    def seconds(self, shape: StepShape) -> float:
        return (
            self.step_s
            + self.token_s * shape.num_tokens
            + self.row_s * shape.num_rows
            + self.chunk_s * shape.num_chunks
            + self.context_token_s * shape.num_context_tokens
            + self.pair_s * shape.num_pairs
        )


def terms(shape: StepShape) -> tuple[float, ...]:
    """What the coefficients of `Fitted` are multiplied by, in the order of `TERMS`."""
    return (
        1.0,
        shape.num_tokens,
        shape.num_rows,
        shape.num_chunks,
        shape.num_context_tokens,
        shape.num_pairs,
    )


class FitError(Part):
    """How far the fitted model is from the measured steps, relative to them."""

    num_steps: PositiveInt
    median: NonNegativeFloat
    p90: NonNegativeFloat
