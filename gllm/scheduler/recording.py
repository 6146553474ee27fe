"""The form of a recording, and how it is read: what the core was told and what it planned.

A part is one file: a line of magic, then frames, each its length (uint32, little-endian) and a
msgpack array `[tag, field, ...]`. The first frame is `Begin` with the core's whole state, so that
every part can be replayed by itself; the others are events in the order in which the core saw them.
FILE is the newest part, FILE.1 the one before it. A part contains the token ids of prompts.

Knows nothing of who writes, nor of what a core makes of an event.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import IO

from gllm.protocol.messages import (
    MAX_SEQUENCES,
    PROTOCOL_VERSION,
    Mask,
    StepResult,
    Submit,
    WorkerReady,
)
from gllm.protocol.tagged import Tagged, Vocabulary, pack
from gllm.protocol.wire import (
    Bytes,
    Column,
    Float,
    Int,
    Ints,
    Nested,
    ProtocolError,
    Text,
    read_record,
    wire,
)
from gllm.scheduler.kinds import SECONDS
from gllm.scheduler.state import MAX_NAME, CoreState

FORMAT_VERSION = 3
MAGIC = b"gllm recording\n"
LENGTH = Struct("<I")
MAX_FRAME_BYTES = 1 << 29
MAX_PLAN_BYTES = 1 << 28


class RecordingError(ValueError):
    """The file is no recording, or one that this gLLM cannot read; the message is one sentence."""


class Event(Tagged):
    """One frame."""

    __slots__ = ()


event = Vocabulary(Event)


@event(0)
class Begin(Event):
    """The first frame of a part. The two versions stand first in every format."""

    format_version: int = wire(Int())
    protocol_version: int = wire(Int())
    recording: str = wire(Text(64))  # the same in all parts of one recording
    part: int = wire(Int())  # 0, 1, ...
    written_at: float = wire(Float(0.0, 2e11))  # Unix time
    now: float = wire(SECONDS)
    state: CoreState = wire(Nested(CoreState))


@event(1)
class Submitted(Event):
    now: float = wire(SECONDS)
    frontend: bytes = wire(Bytes(MAX_NAME))
    request: Submit = wire(Nested(Submit))


@event(2)
class Cancelled(Event):
    now: float = wire(SECONDS)
    frontend: bytes = wire(Bytes(MAX_NAME))
    request_ids: "Column[int]" = wire(Ints(MAX_SEQUENCES))
    outputs: "Column[int]" = wire(Ints(MAX_SEQUENCES))  # see `Cancel`


@event(3)
class FrontendLost(Event):
    now: float = wire(SECONDS)
    frontend: bytes = wire(Bytes(MAX_NAME))


@event(4)
class Expired(Event):
    """A deadline passed, which ended a request."""

    now: float = wire(SECONDS)


@event(5)
class Planning(Event):
    """A plan was asked for. `Planned` follows if there was one."""

    now: float = wire(SECONDS)


@event(6)
class Planned(Event):
    """The bytes of the `StepPlan`."""

    plan: bytes = wire(Bytes(MAX_PLAN_BYTES))


@event(7)
class Committed(Event):
    now: float = wire(SECONDS)
    result: StepResult = wire(Nested(StepResult))


@event(8)
class WorkerLost(Event):
    now: float = wire(SECONDS)


@event(9)
class WorkerCame(Event):
    now: float = wire(SECONDS)
    worker: WorkerReady = wire(Nested(WorkerReady))


@event(11)
class Masked(Event):
    now: float = wire(SECONDS)
    frontend: bytes = wire(Bytes(MAX_NAME))
    mask: Mask = wire(Nested(Mask))


@event(10)
class End(Event):
    """The recording was ended: in order if `sentence` is empty, else by that error."""

    sentence: str = wire(Text(4096))


@event(12)
class CacheReset(Event):
    """The prefix cache was emptied."""

    now: float = wire(SECONDS)


def frame(noted: Event) -> bytes:
    """The frame of `noted`."""
    body = pack(noted)
    if len(body) > MAX_FRAME_BYTES:
        raise RecordingError(f"a frame of {len(body)} bytes: at most {MAX_FRAME_BYTES} are allowed")
    return LENGTH.pack(len(body)) + body


def event_of(body: bytes) -> Event:
    """The event in a frame; raises `ProtocolError`."""
    cls, raw = event.split(body)
    if cls is Begin and raw[:2] != [FORMAT_VERSION, PROTOCOL_VERSION]:
        raise ProtocolError(
            f"it has the versions {raw[:2]!r:.40} of format and protocol, this gLLM reads "
            f"{[FORMAT_VERSION, PROTOCOL_VERSION]}: replay it with the gLLM that wrote it"
        )
    return read_record(cls, raw)


@dataclass
class Part:
    """One file of a recording. `is_cut_off` holds once the events were read: the last frame is not whole."""

    path: Path
    begin: Begin
    is_cut_off: bool = False

    @classmethod
    def open(cls, path: Path) -> "Part":
        """The part in that file; raises `RecordingError`, or OSError if it cannot be read."""
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise RecordingError(f"{path} is no recording of gllm serve --record")
            begin = next(_events(path, file), None)
        if not isinstance(begin, Begin):
            raise RecordingError(f"{path} ends before the state that a recording begins with")
        return cls(path, begin)

    def events(self) -> Iterator[Event]:
        """What came after `begin`, in order."""
        with self.path.open("rb") as file:
            file.seek(len(MAGIC))
            reading = _events(self.path, file)
            next(reading)
            yield from reading
            self.is_cut_off = file.tell() != os.fstat(file.fileno()).st_size


def open_recording(path: Path) -> list[Part]:
    """The part in `path` and the older ones of the same recording beside it, oldest first."""
    parts = [Part.open(path)]
    while parts[0].begin.part > 0 and (older := numbered(path, len(parts))).exists():
        part = Part.open(older)
        if (part.begin.recording, part.begin.part) != (parts[0].begin.recording, parts[0].begin.part - 1):
            break
        parts.insert(0, part)
    return parts


def numbered(path: Path, number: int) -> Path:
    """The file of the part that is `number` parts older than the newest."""
    return path.with_name(f"{path.name}.{number}") if number else path


def _events(path: Path, file: IO[bytes]) -> Iterator[Event]:
    """The events in whole frames from here on; the file's position stays at the end of the last of them."""
    size = os.fstat(file.fileno()).st_size
    while (start := file.tell()) + LENGTH.size <= size:
        (length,) = LENGTH.unpack(file.read(LENGTH.size))
        if length > MAX_FRAME_BYTES:
            raise RecordingError(f"{path}: the frame at byte {start} cannot have {length} bytes")
        if start + LENGTH.size + length > size:
            file.seek(start)
            return
        try:
            yield event_of(file.read(length))
        except ProtocolError as error:
            raise RecordingError(f"{path}: the frame at byte {start} is malformed: {error}") from error
