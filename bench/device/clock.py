"""When the forward stream of a GPU worked: events around every step's upload and computation."""

import statistics
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from gllm.worker.cuda import Cuda, CudaStream


def _event(stream: Any) -> Any:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event


class ClockedStream(CudaStream):
    """Notes for each `run` an event before and one behind it."""

    def __init__(self, stream: Any, spans: list[tuple[Any, Any]]) -> None:
        super().__init__(stream)
        self._spans = spans

    def run(self, call: Callable[[], None]) -> None:
        start = _event(self._stream)
        super().run(call)
        self._spans.append((start, _event(self._stream)))


class ClockedGpu(Cuda):
    """`stream.Device` whose forward stream keeps its times."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.spans: list[tuple[Any, Any]] = []

    def stream(self, name: str) -> CudaStream:
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        return ClockedStream(stream, self.spans) if name == "forward" else CudaStream(stream)

    def forget(self) -> None:
        self.spans.clear()

    def idle_share(self, first: int, last: int) -> float:
        """Of steps [first, last), the median share of a step's time in which the stream had nothing to do:
        from the end of a step to the start of the next, over from start to start."""
        torch.cuda.synchronize(self._device)
        spans = self.spans[first:last]
        shares = [
            before[1].elapsed_time(after[0]) / before[0].elapsed_time(after[0])
            for before, after in pairwise(spans)
        ]
        return float(statistics.median(shares))

    def busy_seconds(self, first: int, last: int) -> float:
        """The median time from start to end of these steps."""
        torch.cuda.synchronize(self._device)
        return float(statistics.median(s.elapsed_time(e) for s, e in self.spans[first:last])) * 1e-3
