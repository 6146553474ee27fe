"""Records what operators in C do, so that one call does it again: a CPU's counterpart of a device's graphs.

While something is recorded the operators compute as always; each call of the library is noted with its
arguments, and what torch allocates comes out of an arena that stays. If torch computes anything, there is no
replay: it would lack that. Knows nothing of batches or models.
"""

import ctypes
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gllm.kernels import large_pages
from gllm.kernels.native.library import SIGNATURES, library

# As program.c numbers them.
OPERATORS = (
    "gllm_linear", "gllm_linear_amx", "gllm_linear_amx_rounded", "gllm_rms_norm", "gllm_norm_heads",
    "gllm_rotary_write", "gllm_silu_mul", "gllm_attention",
)  # fmt: skip
MOST_ARGUMENTS = 16
ALLOCATING = ("empty", "empty_like", "new_empty")
LOOKING = ("__get__", "__len__", "data_ptr", "stride", "size")  # at a tensor's form
# Compute nothing as long as what they give lies in memory that they were given.
VIEWING = ("__getitem__", "view", "reshape", "flatten", "chunk", "unbind", "to", "float", "contiguous")
ALIGNMENT = 64

native = cast(ctypes.CDLL, library())


class OutOfMemoryError(MemoryError):
    """The workspace of a step could not be allocated."""


class _Argument(ctypes.Union):
    _fields_ = (("at", ctypes.c_void_p), ("whole", ctypes.c_long), ("real", ctypes.c_double))


class _Call(ctypes.Structure):
    _fields_ = (("operator", ctypes.c_long), ("given", _Argument * MOST_ARGUMENTS))


# Of an argument, by its kind in `SIGNATURES`; others are whole.
FIELDS: dict[type, str] = {ctypes.c_void_p: "at", ctypes.c_float: "real"}


class Arena:
    """Memory of recordings, of which one is replayed at a time: each begins at the start."""

    def __init__(self) -> None:
        self._room = torch.empty(0, dtype=torch.uint8)
        self._rooms: list[Tensor] = []
        self._next = 0  # of `_rooms`
        self._free: dict[int, list[Tensor]] = {}  # rooms by size

    @property
    def num_bytes(self) -> int:
        return sum(len(room) for room in self._rooms)

    def begin(self) -> None:
        """Whatever was taken is anyone's. Not emptied, but new: tensors of an earlier recording may yet be
        given back."""
        self._next, self._room, self._free = 0, self._room[:0], {}

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Not yet filled; the memory is another's as soon as no tensor uses it."""
        size = -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        if not size:
            return torch.empty(tuple(shape), dtype=dtype)
        free = self._free.setdefault(size, [])
        room = free.pop() if free else self._new(size)
        memory = (ctypes.c_char * size).from_address(room.data_ptr())
        weakref.finalize(memory, free.append, room)  # which keeps the room until then
        return torch.frombuffer(memory, dtype=dtype, count=math.prod(shape)).view(tuple(shape))

    def _new(self, size: int) -> Tensor:
        while len(self._room) < size:
            if self._next == len(self._rooms):
                self._rooms.append(large_pages.mapped(max(size, 1 << 20)))
            self._room = self._rooms[self._next]
            self._next += 1
        taken, self._room = self._room[:size], self._room[size:]
        return taken


@dataclass(frozen=True, slots=True)
class Replay:
    """Recorded calls, to be made again."""

    calls: "ctypes.Array[_Call]"
    arena: Arena  # whose memory they use

    def __call__(self) -> None:
        if native.gllm_replay(self.calls, len(self.calls)):
            raise OutOfMemoryError("no memory for the workspace of a decode step")


class Recording(TorchFunctionMode):
    """What was called while it was entered. `obstacle`: what torch computed, so that there is no replay.

    Not one of torch's modes that see every operator: the first use of those imports for a second.
    """

    def __init__(self, arena: Arena) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.obstacle: str | None = None
        self._arena = arena

    def __enter__(self) -> "Recording":
        global _current
        _current = self
        self._arena.begin()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        global _current
        _current = None
        super().__exit__(*raised)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        name, made = func.__name__, func(*args, **(kwargs or {}))
        if name in ALLOCATING:
            return self._arena.take(made.shape, made.dtype)
        if name not in LOOKING and not (name in VIEWING and _views_of(args, made)):
            self.obstacle = self.obstacle or name
        return made


_current: Recording | None = None


def _views_of(given: tuple[Any, ...], made: Any) -> bool:
    """Whether everything made lies in memory that was given: nothing was computed."""
    storages = {each.untyped_storage().data_ptr() for each in given if isinstance(each, Tensor)}
    tensors = made if isinstance(made, (list, tuple)) else [made]
    return all(isinstance(each, Tensor) and each.untyped_storage().data_ptr() in storages for each in tensors)


def call(name: str, *given: Any) -> Any:
    """Call the library's function `name`."""
    if _current is not None:
        _current.calls.append((name, given))
    return getattr(native, name)(*given)


class Recorder:
    """Makes recordings of which one at a time is replayed, all in the same memory."""

    def __init__(self) -> None:
        self._arena = Arena()

    def record(self, compute: Callable[[], Tensor]) -> tuple[Tensor, Replay | str]:
        """What `compute` gives, and a replay that gives it again of what then lies at the same addresses,
        into the same memory; or the name of what hinders it.

        Hazards: whatever `compute` uses must stay where it is; of what it makes only the result can be used,
        until the next recording is made or replayed.
        """
        with Recording(self._arena) as recording:
            result = compute()
        unknown = (name for name, _ in recording.calls if name not in OPERATORS)
        obstacle = recording.obstacle or next(unknown, None)
        return result, obstacle or _replay_of(recording.calls, self._arena)


def _replay_of(recorded: list[tuple[str, tuple[Any, ...]]], arena: Arena) -> Replay:
    calls = (_Call * len(recorded))()
    for one, (name, given) in zip(calls, recorded, strict=True):
        one.operator = OPERATORS.index(name)
        kinds, _ = SIGNATURES[name]
        for argument, value, kind in zip(one.given, given, kinds, strict=False):
            setattr(argument, FIELDS.get(kind, "whole"), value)
    return Replay(calls, arena)
