"""A GPU worker without a GPU, for dry runs: the CUDA kernels in Triton's interpreter, a device that obeys
at once. Times of it mean nothing."""

from collections.abc import Callable

import torch
from torch import Tensor

from gllm.worker.stream import Event


class Obedient:
    """`stream.Device`, its streams and events: whatever is asked has run when the call returns."""

    is_done = True

    def pinned(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype)

    empty = pinned

    def stream(self, name: str) -> "Obedient":
        del name
        return self

    def synchronize(self) -> None:
        pass

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        return call

    def copy(self, target: Tensor, source: Tensor) -> None:
        target.copy_(source)

    def run(self, call: Callable[[], None]) -> None:
        call()

    def record(self) -> Event:
        return self

    def wait(self, event: Event | None = None) -> None:
        del event


class Interpreted:
    """`Platform` of the stand-in: what a GPU has, on tensors of the host."""

    device = torch.device("cpu")
    backend = "cuda"
    page_size = 64
    kv_cap_bytes = 1 << 26
    dtypes = (torch.float16,)  # the interpreter multiplies bfloat16 as integers
    takes_stored_dtype = False
    fewest_tokens = 1

    def __init__(self) -> None:
        self.behind = Obedient()

    def free_bytes(self) -> int:
        return 1 << 30
