"""What a step yields, and when it is there.

Knows nothing of how a step is computed.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from gllm.protocol.messages import StepPlan, StepResult
from gllm.protocol.wire import column
from gllm.worker.batch import Batch
from gllm.worker.logprobs import Asked, Computed


@dataclass(frozen=True, slots=True)
class Sampled:
    """What came of a step's sampling rows, in plan order: on the device, or home on the host."""

    tokens: Tensor  # int64 [num_sampling]
    logprobs: Computed | None = None  # of those tokens, where somebody asked
    prompt_logprobs: Computed | None = None

    def result_of(self, plan: StepPlan) -> StepResult:
        """On the wire, without times; once it is home."""
        result = StepResult(plan.epoch, plan.step, column(self.tokens.tolist()), 0, 0, 0)
        if self.logprobs is not None:
            result.logprobs = self.logprobs.of_tokens()
        if self.prompt_logprobs is not None:
            result.prompt_logprobs = self.prompt_logprobs.of_prompts()
        return result


def shapes_of(batch: Batch) -> Sampled:
    """What will come of `batch`, without values: the way home is laid out before anything has run."""
    return Sampled(
        tokens=torch.empty(batch.num_sampling, dtype=torch.int64, device="meta"),
        logprobs=_shapes_of(batch.logprobs),
        prompt_logprobs=_shapes_of(batch.prompt_logprobs),
    )


def _shapes_of(asked: Asked | None) -> Computed | None:
    if asked is None:
        return None
    num_positions, width = len(asked.rows), 1 + asked.num_top
    return Computed(
        ranks=torch.empty(num_positions, dtype=torch.int64, device="meta"),
        ids=torch.empty((num_positions, width), dtype=torch.int64, device="meta"),
        values=torch.empty((num_positions, width), dtype=torch.float32, device="meta"),
        parts=asked.parts,
    )


class StepOutput(Protocol):
    """A step that was launched and may still run."""

    @property
    def is_ready(self) -> bool:
        """Whether `take` would return at once."""

    def wait(self) -> None:
        """Sleep until the step is home; may be called by another thread."""

    def take(self) -> Sampled:
        """What came of the step, on the host, once; valid until the next launch."""


@dataclass(frozen=True, slots=True)
class Done:
    """The output of a step that had run when its launch returned."""

    sampled: Sampled
    is_ready: ClassVar[bool] = True

    def wait(self) -> None:
        pass

    def take(self) -> Sampled:
        return self.sampled
