"""The launch path of a device that runs behind the host: what may be reused when, and nothing else.

A step has four parts: the host writes its inputs into pinned memory; the forward stream copies them to
the device, at an address that never changes (graphs replay it), and computes; the copy stream brings the
tokens home; the host takes them. Two steps may be under way, so whatever two of them touch at once is there
twice: pinned inputs, the device's tokens, the host's tokens. The device's inputs exist once, since uploads
and forwards share a stream and run in turn.

One event a step answers for all of its memory: behind the copy home lie the forward and the upload. So a
step's memory is free when the host has taken its tokens, and `launch` refuses to write it earlier.

Knows nothing of plans, models or graphs: a replay is a call like any other. `Device` is the thin interface
that a recording stand-in implements in tests; `Cuda` is the real one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

STEPS_UNDER_WAY = 2


class Event(Protocol):
    """A point in a stream."""

    @property
    def is_done(self) -> bool: ...

    def wait(self) -> None:
        """The host sleeps until everything before the point has run."""


class Stream(Protocol):
    """Work of the device that runs in the order of these calls, some time behind them."""

    def copy(self, target: Tensor, source: Tensor) -> None: ...

    def run(self, call: Callable[[], None]) -> None:
        """Enqueue what `call` launches; it must not wait for the device."""

    def record(self) -> Event: ...

    def wait(self, event: Event) -> None:
        """What is enqueued from here on runs behind `event`, of any stream; the host goes on."""


class Device(Protocol):
    """Memory and streams."""

    def pinned(self, size: int, dtype: torch.dtype) -> Tensor: ...

    def empty(self, size: int, dtype: torch.dtype) -> Tensor: ...

    def stream(self, name: str) -> Stream: ...


class LaunchError(Exception):
    """The order of calls would overwrite what nobody has read yet."""


@dataclass(slots=True)
class ForwardOutput:
    """The tokens of a step that may still run: `copied` joins the device's clock to the host's."""

    tokens: Tensor  # int64 [num_sampling] on the host, garbage until `copied`
    copied: Event
    is_taken: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether `take` would return at once."""
        return self.copied.is_done

    def take(self) -> list[int]:
        """The tokens, once; waits for their copy."""
        if self.is_taken:
            raise LaunchError("these tokens were taken before: their memory may hold a later step's")
        self.copied.wait()
        self.is_taken = True
        return [int(token) for token in self.tokens.tolist()]


@dataclass(slots=True)
class _Buffers:
    """What one of the steps under way writes; `output` is of the last step that did."""

    inputs: Tensor
    device_tokens: Tensor
    tokens: Tensor
    output: ForwardOutput | None = None


class Launcher:
    """Launches steps, up to two ahead of the tokens that were taken."""

    def __init__(self, device: Device, *, input_bytes: int, max_num_sampling: int) -> None:
        self._forward = device.stream("forward")
        self._copy = device.stream("copy")
        self._device_inputs = device.empty(input_bytes, torch.uint8)
        self._buffers = [
            _Buffers(
                device.pinned(input_bytes, torch.uint8),
                device.empty(max_num_sampling, torch.int64),
                device.pinned(max_num_sampling, torch.int64),
            )
            for _ in range(STEPS_UNDER_WAY)
        ]
        self._num_launched = 0

    def launch(
        self, fill: Callable[[Tensor], int], compute: Callable[[Tensor, Tensor], None], num_sampling: int
    ) -> ForwardOutput:
        """Start a step and return before it has run.

        fill(inputs): writes pinned uint8 memory, returns how many bytes of it count.
        compute(inputs, tokens): launches what reads the device's uint8 inputs, at the same address in every
        step, and writes int64 tokens [num_sampling].
        Raises `LaunchError` if the tokens of the step before the last were not taken. What `compute`
        raises passes through, and ends the launcher: the upload may still be reading pinned memory.
        """
        buffers = self._buffers[self._num_launched % STEPS_UNDER_WAY]
        if buffers.output is not None and not buffers.output.is_taken:
            raise LaunchError(f"step {self._num_launched} needs the memory of tokens that nobody has taken")
        size = fill(buffers.inputs)
        self._forward.copy(self._device_inputs[:size], buffers.inputs[:size])
        device_tokens = buffers.device_tokens[:num_sampling]
        self._forward.run(lambda: compute(self._device_inputs, device_tokens))
        self._copy.wait(self._forward.record())
        tokens = buffers.tokens[:num_sampling]
        self._copy.copy(tokens, device_tokens)
        buffers.output = ForwardOutput(tokens, self._copy.record())
        self._num_launched += 1
        return buffers.output

    def check(self) -> None:
        """Whatever was taken had been copied; for tests."""
        for output in (buffers.output for buffers in self._buffers):
            if output is not None and output.is_taken and not output.copied.is_done:
                raise AssertionError("tokens were taken before their copy was done")


class Cuda:
    """`Device` for a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def pinned(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype, pin_memory=True)

    def empty(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype, device=self._device)

    def stream(self, name: str) -> "CudaStream":
        del name
        return CudaStream(torch.cuda.Stream(self._device))  # type: ignore[no-untyped-call]


class CudaEvent:
    """`Event` for a GPU."""

    def __init__(self, event: Any) -> None:
        self.event = event

    @property
    def is_done(self) -> bool:
        return bool(self.event.query())

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
