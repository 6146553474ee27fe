"""A GPU as `stream.Device`: its memory, streams, events and graphs, through torch.

Knows nothing of steps. Nothing here keeps to one GPU: every call names its device.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gllm.worker.stream import Event


def sum_in_one_order() -> None:
    """From here on in this process a row of a product does not depend on how many rows there are.

    cuBLAS may split a long sum among multiprocessors where there are few rows; torch can forbid that of
    cuBLASLt alone. What remains adds in one order, on the chips that were looked at (bench.device_check).
    """
    torch.backends.cuda.preferred_blas_library("cublaslt")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = (False, False)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = (False, False)


class Cuda:
    """`Device` for a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Graphs run one at a time, so that they may share what they allocate.
        self._pool = torch.cuda.graph_pool_handle()
        self._first_graph: Any = None  # a pool is gone with its last graph, and this one stays

    def pinned(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype, pin_memory=True)

    def empty(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype, device=self._device)

    def stream(self, name: str) -> "CudaStream":
        del name
        return CudaStream(torch.cuda.Stream(self._device))  # type: ignore[no-untyped-call]

    def synchronize(self) -> None:
        torch.cuda.synchronize(self._device)

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        # Not `torch.cuda.graph`, which waits for the device and gives all cached memory back. Other threads
        # may go on calling CUDA meanwhile: one waits for an event.
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(self._pool, capture_error_mode="thread_local")
        try:
            call()
        finally:
            graph.capture_end()
        self._first_graph = self._first_graph or graph
        return graph.replay


class CudaEvent:
    """`Event` for a GPU."""

    def __init__(self, event: Any) -> None:
        self.event = event

    @property
    def is_done(self) -> bool:
        try:
            return bool(self.event.query())
        except RuntimeError:  # of the device, for ever: the wait that follows raises it where it is told
            return True

    def wait(self) -> None:
        self.event.synchronize()


class CudaStream:
    """`Stream` for a GPU.

    Hazard: it does not wait for the default stream, where weights are loaded: synchronize in between.
    Hazard: torch's allocator believes that memory belongs to the stream that asked for it. The buffers of
    `Launcher` live as long as it does; what `compute` allocates must stay on the forward stream.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def copy(self, target: Tensor, source: Tensor) -> None:
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def run(self, call: Callable[[], None]) -> None:
        with torch.cuda.stream(self._stream):
            call()

    def record(self) -> CudaEvent:
        # A blocking event puts the waiting host to sleep: it shares its cores with the other processes.
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return CudaEvent(event)

    def wait(self, event: Event) -> None:
        assert isinstance(event, CudaEvent)
        self._stream.wait_event(event.event)
