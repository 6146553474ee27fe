"""How long things take: the cost file, its two models of a step, and what lies around a step.

A `fitted` step is linear in the step's shape (`gllm.steps`), with coefficients measured on one machine
(see `bench.forward`); a `roofline` step follows from the peak numbers of a device and the sizes of a
model. Knows shapes of steps, not where they come from.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from gllm.steps.cost import FitError, Fitted, Part
from gllm.steps.shape import StepShape


class CostError(ValueError):
    """The cost file cannot be used; the message is one sentence."""


class Roofline(Part):
    """A dense decoder on a device: the matrices and then attention each take as long as their
    arithmetic or their memory traffic, whichever is longer.

    Rates are those that kernels reach, not those of a data sheet. Source: the roofline model
    (Williams, Waterman and Patterson, CACM 2009).
    """

    kind: Literal["roofline"]
    num_layers: PositiveInt
    hidden_size: PositiveInt
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    intermediate_size: PositiveInt
    vocab_size: PositiveInt
    bytes_per_element: PositiveInt
    matmul_flops_per_s: PositiveFloat
    attention_flops_per_s: PositiveFloat
    bytes_per_s: PositiveFloat
    launch_s: NonNegativeFloat  # of one step: what the host and the device's small kernels add

    def seconds(self, shape: StepShape) -> float:
        heads, kv_heads = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        layer = self.hidden_size * (2 * heads + 2 * kv_heads + 3 * self.intermediate_size)
        head = self.hidden_size * self.vocab_size
        flops = 2 * (self.num_layers * layer * shape.num_tokens + head * shape.num_sampled)
        weight_bytes = self.bytes_per_element * (self.num_layers * layer + head)
        attention_flops = 4 * self.num_layers * heads * shape.num_pairs
        kv_bytes = 2 * self.num_layers * kv_heads * self.bytes_per_element * shape.num_context_tokens
        return (
            self.launch_s
            + max(flops / self.matmul_flops_per_s, weight_bytes / self.bytes_per_s)
            + max(attention_flops / self.attention_flops_per_s, kv_bytes / self.bytes_per_s)
        )


class Wake(Part):
    """What a step takes more behind a pause, in which a CPU's caches and clock go cold.

    The time grows with the pause as 1 - exp(-pause / pause_s).
    """

    longest_s: NonNegativeFloat
    pause_s: PositiveFloat

    def seconds(self, pause_s: float) -> float:
        return -self.longest_s * math.expm1(-pause_s / self.pause_s)


class Overheads(Part):
    """Times around the steps, in seconds."""

    submit_s: NonNegativeFloat  # from a client's request to the scheduler: HTTP, tokenizing, a message
    plan_s: NonNegativeFloat  # from an event at the scheduler to the worker's first work on its plan
    result_s: NonNegativeFloat  # from a step's last work to its result at the scheduler
    deliver_s: NonNegativeFloat  # from there to the client
    wake: Wake = Wake(longest_s=0.0, pause_s=1.0)


class Capacity(Part):
    """What fits into the worker."""

    memory_bytes: PositiveInt  # of the device; `gpu_memory_utilization` of it is used
    weight_bytes: PositiveInt
    kv_bytes_per_token: PositiveInt
    max_model_len: PositiveInt
    vocab_size: PositiveInt


class CostFile(Part):
    """All that the simulator knows of a model on a machine."""

    model: str
    machine: str
    date: str
    step: Annotated[Fitted | Roofline, Field(discriminator="kind")]
    overheads: Overheads
    capacity: Capacity
    fit: FitError | None = None

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.model_dump(exclude_none=True), indent=2) + "\n")


def read_costs(path: str | Path) -> CostFile:
    """The cost file; raises `CostError` with the first key that is wrong."""
    try:
        return CostFile.model_validate_json(Path(path).read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise CostError(f"{path}: {place}: {first['msg']}") from None
