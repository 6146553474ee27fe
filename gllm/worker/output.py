"""What a step yields, and when it is there.

Knows nothing of how a step is computed or of the messages it becomes.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from gllm.worker.logprobs import Computed


@dataclass(frozen=True, slots=True)
class Sampled:
    """What came of a step's sampling rows, in plan order: on the device, or home on the host."""

    tokens: Tensor  # int64 [num_sampling]
    logprobs: Computed | None = None  # of those tokens, where somebody asked
    prompt_logprobs: Computed | None = None

    @classmethod
    def shapes(cls, num_sampling: int) -> "Sampled":
        """The same without values: the way home is laid out before anything has run."""
        return cls(tokens=torch.empty(num_sampling, dtype=torch.int64, device="meta"))


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
