"""How a step gets to its device: in place, or behind the host with two steps under way.

Both paths do the same three things with a batch, in this order: prepare the tables, compute logits,
sample. Knows nothing of plans, nor how any of the three is done.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from gllm.worker.batch import Batch
from gllm.worker.graphs import DecodeGraphs, with_tokens_padded
from gllm.worker.output import Done, Sampled, StepOutput, shapes_of
from gllm.worker.packing import Packing, copy_tensors
from gllm.worker.stream import STEPS_UNDER_WAY, Device, Homecoming, Launcher


class Computes(Protocol):
    """The parts of a step, of a batch that is where the model is. None of them waits for the device."""

    def prepare(self, batch: Batch) -> None:
        """What comes first, and is in no graph."""

    def compute(self, batch: Batch) -> Sampled:
        """All the rest: logits, what is read out beside them, and samples."""

    def logits(self, batch: Batch) -> Tensor:
        """[num_sampling, vocab] in any float dtype: what may be in a graph."""

    def sample(self, batch: Batch, logits: Tensor) -> Sampled: ...


class LaunchPath(Protocol):
    """A way to the device."""

    @property
    def max_steps_under_way(self) -> int: ...

    @property
    def has_graphs(self) -> bool: ...

    @property
    def runs_behind_host(self) -> bool:
        """Whether a launch returns before its step has run."""

    def launch(self, batch: Batch, model: Computes) -> StepOutput:
        """Start the step of a batch that is on the host; steps run in the order of these calls."""


class InPlace:
    """The host computes: a launch returns when the step has run."""

    max_steps_under_way = 1
    has_graphs = False
    runs_behind_host = False

    def launch(self, batch: Batch, model: Computes) -> StepOutput:
        model.prepare(batch)
        return Done(model.compute(batch))


class BehindHost:
    """A device computes: a launch returns when the step is enqueued. Without `graphs`, call by call."""

    max_steps_under_way = STEPS_UNDER_WAY
    runs_behind_host = True

    def __init__(
        self,
        device: Device,
        graphs: DecodeGraphs | None,
        *,
        input_bytes: int,
        output_bytes: int,
        fewest_tokens: int = 1,
    ) -> None:
        """fewest_tokens: steps of fewer are padded, see `Platform`."""
        self._launcher = Launcher(device, input_bytes=input_bytes, output_bytes=output_bytes)
        self._graphs = graphs
        self._fewest_tokens = fewest_tokens

    @property
    def has_graphs(self) -> bool:
        return self._graphs is not None

    def launch(self, batch: Batch, model: Computes) -> StepOutput:
        graphs, num_sampling = self._graphs, batch.num_sampling
        bucket = None if graphs is None else graphs.bucket_of(batch)
        if graphs is not None and bucket is not None:
            batch = graphs.padded(batch, bucket)
        elif len(batch.token_ids) < self._fewest_tokens:
            batch = with_tokens_padded(batch, self._fewest_tokens)
        there, home = Packing(batch), Packing(shapes_of(batch))

        def compute(inputs: Tensor, outputs: Tensor) -> None:
            on_device = there.view(inputs)
            model.prepare(on_device)
            if graphs is not None and bucket is not None:
                logits = graphs.logits(bucket, on_device, model)[:num_sampling]
                sampled = model.sample(on_device, logits)
            else:
                sampled = model.compute(on_device)
            copy_tensors(home.view(outputs), sampled)

        return _Output(self._launcher.launch(there.num_bytes, there.write, compute, home.num_bytes), home)


@dataclass(frozen=True, slots=True)
class _Output:
    """`StepOutput` of a step behind the host."""

    homecoming: Homecoming
    layout: Packing[Sampled]

    @property
    def is_ready(self) -> bool:
        return self.homecoming.copied.is_done

    def wait(self) -> None:
        self.homecoming.copied.wait()

    def take(self) -> Sampled:
        return self.layout.view(self.homecoming.take())
