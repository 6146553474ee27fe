"""Records that are written by themselves, as msgpack arrays `[tag, field, ...]`: the tag says which class.

Knows nothing of where the bytes go, nor of what any record means.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import msgpack

from gllm.protocol.wire import ProtocolError, Record, read_record, record


class Tagged(Record):
    """A record whose class has a number, the first item of its array."""

    TAG: ClassVar[int] = -1
    __slots__ = ()


T = TypeVar("T", bound=Tagged)
C = TypeVar("C", bound=Tagged)


class Vocabulary(Generic[T]):
    """The subclasses of one base, by their tags. An instance decorates each of them: `@message(7)`.

    Knows those of the modules that were imported.
    """

    def __init__(self, base: type[T]) -> None:
        self.noun = base.__name__.lower()
        self.by_tag: dict[int, type[T]] = {}
        self._base = base

    def __call__(self, tag: int) -> Callable[[type[C]], type[C]]:
        """Class decorator: a record that is written under the number `tag`."""

        def register(cls: type[C]) -> type[C]:
            made = record(cls)
            made.TAG = tag
            self._add(made)
            return made

        return register

    def _add(self, cls: type[Tagged]) -> None:
        if not issubclass(cls, self._base):
            raise TypeError(f"{cls.__name__} is no {self._base.__name__}")
        if cls.TAG in self.by_tag:
            raise TypeError(f"{cls.__name__} and {self.by_tag[cls.TAG].__name__} share the tag {cls.TAG}")
        self.by_tag[cls.TAG] = cls

    def split(self, data: bytes) -> tuple[type[T], list[Any]]:
        """The class of the record in `data` and its fields, not yet read; raises `ProtocolError`."""
        try:
            raw = msgpack.unpackb(data, max_map_len=0, max_ext_len=0)
        # msgpack raises its own errors, ValueError for limits and UnicodeDecodeError for bad strings,
        # and RecursionError's kin (StackError) for nesting: all of them mean the same here.
        except Exception as error:
            raise ProtocolError(f"not msgpack: {type(error).__name__}") from error
        if type(raw) is not list or not raw or type(raw[0]) is not int:
            raise ProtocolError(f"expected a {self.noun}, an array that begins with its tag, got {raw!r:.80}")
        cls = self.by_tag.get(raw[0])
        if cls is None:
            raise ProtocolError(f"unknown {self.noun} tag {raw[0]}")
        return cls, raw[1:]

    def read(self, data: bytes) -> T:
        """The record in `data`, each field checked for type, length and range; raises `ProtocolError`."""
        return read_record(*self.split(data))


def pack(record: Tagged) -> bytes:
    """The bytes of `record`."""
    packed: bytes = msgpack.packb([record.TAG, *record.to_wire()])
    return packed
