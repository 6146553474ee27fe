"""Field kinds of a message: how one value is written, read back and checked.

Knows msgpack's value types, nothing of what a message means. Every reader raises `ProtocolError`
and nothing else, whatever bytes it is fed.
"""

import sys
from array import array
from dataclasses import MISSING, dataclass, field, fields
from math import isnan
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

FloatColumn = array  # of typecode "f": float32
Column = array  # of typecode "i": int32; the name says that it is one column of a table on the wire


class ProtocolError(ValueError):
    """The bytes are not a message of this protocol version."""


class Kind(Protocol):
    """One way of putting a Python value on the wire."""

    def write(self, value: Any) -> Any: ...

    def read(self, raw: Any) -> Any: ...


def floats(values: Any = ()) -> "FloatColumn[float]":
    """A float32 column of `values`."""
    return array("f", values)


def column(values: Any = ()) -> "Column[int]":
    """An int32 column of `values` (non-negative integers below 2**31)."""
    return array("i", values)


@dataclass(frozen=True, slots=True)
class Int:
    """An integer of [low, high]."""

    low: int = 0
    high: int = INT32_MAX

    def write(self, value: Any) -> Any:
        return value

    def read(self, raw: Any) -> int:
        if type(raw) is not int or not self.low <= raw <= self.high:
            raise ProtocolError(f"expected an integer of [{self.low}, {self.high}], got {raw!r:.80}")
        return raw


@dataclass(frozen=True, slots=True)
class Float:
    """A finite number of [low, high]; an integer is taken for its float."""

    low: float
    high: float

    def write(self, value: Any) -> Any:
        return value

    def read(self, raw: Any) -> float:
        if type(raw) not in (int, float) or not self.low <= raw <= self.high:
            raise ProtocolError(f"expected a number of [{self.low}, {self.high}], got {raw!r:.80}")
        return float(raw)


@dataclass(frozen=True, slots=True)
class Flag:
    """A truth value."""

    def write(self, value: Any) -> Any:
        return value

    def read(self, raw: Any) -> bool:
        if type(raw) is not bool:
            raise ProtocolError(f"expected true or false, got {raw!r:.80}")
        return raw


@dataclass(frozen=True, slots=True)
class Text:
    """A string of at most `max_len` characters."""

    max_len: int

    def write(self, value: Any) -> Any:
        return value

    def read(self, raw: Any) -> str:
        if type(raw) is not str or len(raw) > self.max_len:
            raise ProtocolError(f"expected a string of at most {self.max_len} characters, got {raw!r:.80}")
        return raw


@dataclass(frozen=True, slots=True)
class Bytes:
    """At most `max_len` bytes."""

    max_len: int

    def write(self, value: Any) -> Any:
        return value

    def read(self, raw: Any) -> bytes:
        if type(raw) is not bytes or len(raw) > self.max_len:
            raise ProtocolError(f"expected at most {self.max_len} bytes, got {raw!r:.80}")
        return raw


@dataclass(frozen=True, slots=True)
class Ints:
    """A column of at most `max_len` integers of [0, 2**31), as little-endian int32 bytes."""

    max_len: int

    def write(self, value: Any) -> bytes:
        if sys.byteorder == "big":
            value = array("i", value)
            value.byteswap()
        raw: bytes = value.tobytes()
        return raw

    def read(self, raw: Any) -> "Column[int]":
        if type(raw) is not bytes or len(raw) % 4 or len(raw) > 4 * self.max_len:
            raise ProtocolError(f"expected at most {self.max_len} int32 as bytes, got {raw!r:.80}")
        # The top byte of every integer has no sign bit: one vectorised look instead of a Python loop.
        if not raw[3::4].isascii():
            raise ProtocolError("expected a column of non-negative integers, got a negative one")
        values = array("i", raw)
        if sys.byteorder == "big":
            values.byteswap()
        return values


@dataclass(frozen=True, slots=True)
class Floats:
    """A column of at most `max_len` numbers of [low, high], as little-endian float32 bytes."""

    low: float
    high: float
    max_len: int

    def write(self, value: Any) -> bytes:
        if sys.byteorder == "big":
            value = array("f", value)
            value.byteswap()
        raw: bytes = value.tobytes()
        return raw

    def read(self, raw: Any) -> "FloatColumn[float]":
        if type(raw) is not bytes or len(raw) % 4 or len(raw) > 4 * self.max_len:
            raise ProtocolError(f"expected at most {self.max_len} float32 as bytes, got {raw!r:.80}")
        values = array("f", raw)
        if sys.byteorder == "big":
            values.byteswap()
        # Three C loops instead of a Python one. `min` and `max` may overlook NaN, a sum never does.
        if values and not (min(values) >= self.low and max(values) <= self.high and not isnan(sum(values))):
            raise ProtocolError(f"expected a column of numbers of [{self.low}, {self.high}]")
        return values


@dataclass(frozen=True, slots=True)
class Maybe:
    """A value of `kind`, or None."""

    kind: Kind

    def write(self, value: Any) -> Any:
        return None if value is None else self.kind.write(value)

    def read(self, raw: Any) -> Any:
        return None if raw is None else self.kind.read(raw)


@dataclass(frozen=True, slots=True)
class Many:
    """A list of at most `max_len` values of one kind."""

    item: Kind
    max_len: int

    def write(self, value: Any) -> Any:
        return [self.item.write(item) for item in value]

    def read(self, raw: Any) -> list[Any]:
        if type(raw) is not list or len(raw) > self.max_len:
            raise ProtocolError(f"expected a list of at most {self.max_len} items, got {raw!r:.80}")
        return [self.item.read(item) for item in raw]


def wire(kind: Kind, *, default: Any = MISSING, default_factory: Any = MISSING) -> Any:
    """Field specifier: this field travels as `kind`; `default` is, and `default_factory` makes, what a
    sender need not say. On the wire every field is there."""
    return field(default=default, default_factory=default_factory, metadata={"kind": kind})


@dataclass_transform(field_specifiers=(wire,))
class Record:
    """Base of every class that travels: its fields, in order, are an array on the wire."""

    KINDS: ClassVar[tuple[tuple[str, Kind], ...]] = ()
    __slots__ = ()

    def to_wire(self) -> list[Any]:
        return [kind.write(getattr(self, name)) for name, kind in self.KINDS]

    def check(self) -> None:
        """Raise `ProtocolError` where fields contradict each other; called after reading."""


R = TypeVar("R", bound=Record)


def read_record(cls: type[R], raw: Any) -> R:
    """A `cls` from the array `raw`; raises `ProtocolError`."""
    if type(raw) is not list or len(raw) != len(cls.KINDS):
        raise ProtocolError(f"expected {len(cls.KINDS)} fields of {cls.__name__}, got {raw!r:.80}")
    record = cls(*[kind.read(value) for (_, kind), value in zip(cls.KINDS, raw, strict=True)])
    record.check()
    return record


@dataclass(frozen=True, slots=True)
class Nested:
    """A record inside a message."""

    cls: type[Record]

    def write(self, value: Any) -> Any:
        return value.to_wire()

    def read(self, raw: Any) -> Any:
        return read_record(self.cls, raw)


def record(cls: type[R]) -> type[R]:
    """Class decorator: a slotted dataclass whose fields are written and read in order."""
    made = dataclass(slots=True)(cls)
    made.KINDS = tuple((f.name, f.metadata["kind"]) for f in fields(made))  # type: ignore[arg-type]
    return made
