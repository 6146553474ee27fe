"""From memory of the host that is mapped to a device, through pinned pieces: one is read while one is copied.

Knows nothing of checkpoints, nor of what the tensors are.
"""

import torch
from torch import Tensor

from gllm.worker.stream import Device, Event

PIECE_BYTES = 1 << 26


class Staging:
    """Two pinned pieces and a stream. `finish` when the last tensor was given."""

    def __init__(self, device: Device, piece_bytes: int = PIECE_BYTES) -> None:
        self._device = device
        self._stream = device.stream("staging")
        self._pieces = [device.pinned(piece_bytes, torch.uint8) for _ in range(2)]
        self._copied: list[Event | None] = [None, None]
        self._num_copied = 0

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy a tensor of the host to `target`, contiguous on the device and of the same shape, in target's
        dtype. `source` has been read when this returns, `target` is not yet written."""
        to, come = target.view(-1), source.reshape(-1)
        size = len(self._pieces[0]) // target.itemsize
        for start in range(0, len(to), size):
            end, turn = min(start + size, len(to)), self._num_copied % 2
            last_copy = self._copied[turn]
            if last_copy is not None:
                last_copy.wait()
            piece = self._pieces[turn][: (end - start) * target.itemsize].view(target.dtype)
            piece.copy_(come[start:end])
            self._stream.copy(to[start:end], piece)
            self._copied[turn] = self._stream.record()
            self._num_copied += 1

    def finish(self) -> None:
        """Wait until everything is there."""
        for event in self._copied:
            if event is not None:
                event.wait()
