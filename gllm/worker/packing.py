"""Tensors of a dataclass behind one another in one run of bytes: what is copied to a device in one piece.

Knows nothing of what the tensors mean, nor of who copies.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, Generic, TypeVar, cast

import numpy as np
from torch import Tensor

ALIGNMENT = 16  # kernels are compiled for addresses of this multiple: another one would compile them anew

T = TypeVar("T")


class Packing(Generic[T]):
    """Where the tensors of `value` lie, nested dataclasses included; all else of it stays on the host."""

    def __init__(self, value: T) -> None:
        self.value = value
        self._tensors = list(tensors_of(value))
        self._offsets = []
        self.num_bytes = 0
        for tensor in self._tensors:
            self._offsets.append(self.num_bytes)
            self.num_bytes += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT

    def write(self, memory: Tensor) -> None:
        """Copy the values, which are on the host, into uint8 `memory` of the host."""
        target = memory.numpy()
        for tensor, offset in zip(self._tensors, self._offsets, strict=True):
            target[offset : offset + tensor.nbytes] = tensor.reshape(-1).numpy().view(np.uint8)

    def view(self, memory: Tensor) -> T:
        """`value` with its tensors replaced by parts of uint8 `memory`, of any device."""
        parts = (
            memory[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            for tensor, offset in zip(self._tensors, self._offsets, strict=True)
        )
        return cast(T, _replaced(self.value, parts))


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors of a dataclass and of those in it, in the order of their fields."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_of(getattr(value, field.name))


def copy_tensors(target: T, source: T) -> None:
    """Copy the tensors of `source` into those of `target`, which is alike."""
    for to, come in zip(tensors_of(target), tensors_of(source), strict=True):
        to.copy_(come)


def _replaced(value: Any, parts: Iterator[Tensor]) -> Any:
    if isinstance(value, Tensor):
        return next(parts)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changed = {}
    for field in fields(value):
        old = getattr(value, field.name)
        new = _replaced(old, parts)
        if new is not old:
            changed[field.name] = new
    return replace(value, **changed) if changed else value
