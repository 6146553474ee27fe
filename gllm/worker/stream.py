"""The launch path of a device that runs behind the host: what may be reused when, and nothing else.

A step has four parts: the host writes its inputs into pinned memory; the forward stream copies them to
the device, at an address that stays (graphs replay it), and computes; the copy stream brings the outputs
home; the host takes them. Two steps may be under way, so whatever two of them touch at once is there
twice: pinned inputs, the device's outputs, the host's outputs. The device's inputs exist once, since
uploads and forwards share a stream and run in turn.

One event a step answers for all of its memory: behind the copy home lie the forward and the upload. So a
step's memory is free when the host has taken its outputs, and `launch` refuses to write it earlier.

Knows nothing of plans, models or what bytes mean: a replay is a call like any other. `Device` is the thin
interface that a recording stand-in implements in tests; `cuda.py` has the real one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

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
    """Memory, streams and graphs."""

    def pinned(self, size: int, dtype: torch.dtype) -> Tensor: ...

    def empty(self, size: int, dtype: torch.dtype) -> Tensor: ...

    def stream(self, name: str) -> Stream: ...

    def synchronize(self) -> None:
        """The host waits for everything that was enqueued so far, on any stream."""

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        """A call that launches again what `call` launches, at once and on the same memory.

        Inside `Stream.run`. What `call` launches does not run yet, and must have run once before.
        """


class LaunchError(Exception):
    """The order of calls would overwrite what nobody has read yet."""


@dataclass(slots=True)
class Homecoming:
    """The outputs of a step that may still run: `copied` joins the device's clock to the host's."""

    outputs: Tensor  # uint8, on the host, garbage until `copied`
    copied: Event
    is_taken: bool = False

    def take(self) -> Tensor:
        """The outputs, once; waits for their copy. They are a later step's after the next launch but one."""
        if self.is_taken:
            raise LaunchError("these outputs were taken before: their memory may hold a later step's")
        self.copied.wait()
        self.is_taken = True
        return self.outputs


@dataclass(slots=True)
class _Buffers:
    """What one of the steps under way writes; `home` is of the last step that did."""

    inputs: Tensor
    device_outputs: Tensor
    outputs: Tensor
    home: Homecoming | None = None


class Launcher:
    """Launches steps, up to two ahead of the outputs that were taken."""

    def __init__(self, device: Device, *, input_bytes: int, output_bytes: int) -> None:
        """input_bytes, output_bytes: room at the start; a step that needs more makes more."""
        self._device = device
        self._forward = device.stream("forward")
        self._copy = device.stream("copy")
        self._device_inputs = device.empty(input_bytes, torch.uint8)
        self._buffers = [
            _Buffers(
                device.pinned(input_bytes, torch.uint8),
                device.empty(output_bytes, torch.uint8),
                device.pinned(output_bytes, torch.uint8),
            )
            for _ in range(STEPS_UNDER_WAY)
        ]
        self._num_launched = 0

    def launch(
        self,
        input_bytes: int,
        fill: Callable[[Tensor], None],
        compute: Callable[[Tensor, Tensor], None],
        output_bytes: int,
    ) -> Homecoming:
        """Start a step and return before it has run.

        fill(inputs): writes pinned uint8 memory [input_bytes].
        compute(inputs, outputs): launches what reads the device's uint8 inputs, at one address in all steps
        for which there was room, and writes the device's uint8 outputs [output_bytes].
        Raises `LaunchError` if the outputs of the step before the last were not taken. What `compute`
        raises passes through, and ends the launcher: the upload may still be reading pinned memory.
        """
        buffers = self._buffers[self._num_launched % STEPS_UNDER_WAY]
        if buffers.home is not None and not buffers.home.is_taken:
            raise LaunchError(f"step {self._num_launched} needs the memory of outputs that nobody has taken")
        self._make_room(buffers, input_bytes, output_bytes)
        fill(buffers.inputs[:input_bytes])
        self._forward.copy(self._device_inputs[:input_bytes], buffers.inputs[:input_bytes])
        inputs, device_outputs = self._device_inputs, buffers.device_outputs[:output_bytes]
        self._forward.run(lambda: compute(inputs, device_outputs))
        self._copy.wait(self._forward.record())
        outputs = buffers.outputs[:output_bytes]
        self._copy.copy(outputs, device_outputs)
        buffers.home = Homecoming(outputs, self._copy.record())
        self._num_launched += 1
        return buffers.home

    def _make_room(self, buffers: _Buffers, input_bytes: int, output_bytes: int) -> None:
        """Larger memory for a step that needs it; the other step under way runs to its end before."""
        if input_bytes > len(self._device_inputs):
            for other in self._buffers:
                if other.home is not None:
                    other.home.copied.wait()
            self._device_inputs = self._device.empty(2 * input_bytes, torch.uint8)
            for other in self._buffers:
                other.inputs = self._device.pinned(2 * input_bytes, torch.uint8)
        if output_bytes > len(buffers.outputs):
            buffers.device_outputs = self._device.empty(2 * output_bytes, torch.uint8)
            buffers.outputs = self._device.pinned(2 * output_bytes, torch.uint8)

    def check(self) -> None:
        """Whatever was taken had been copied; for tests."""
        for home in (buffers.home for buffers in self._buffers):
            if home is not None and home.is_taken and not home.copied.is_done:
                raise AssertionError("outputs were taken before their copy was done")
