"""What a parser of tool calls is: text goes in piece by piece, text and the parts of calls come out.

A call begins once it names a tool of the request and its arguments have begun, so that what only looks
like one stays text; from there on it is a call, and its arguments come out as they come in. Every
decision depends on the text alone, never on how it was cut: a stream and a whole answer hold the same.
Knows nothing of tokens, messages or HTTP.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn
from uuid import uuid4

from pydantic_core import from_json

from gllm.frontend.json_depth import is_too_deep
from gllm.frontend.tool_calls.json_end import JsonEnd


def _new_id() -> str:
    return f"call_{uuid4().hex}"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model wants tool `name` called.

    arguments: the JSON of an object, as the model wrote it, which may be wrong; unless `is_whole` only the
    beginning, since the answer ended there.
    """

    name: str
    arguments: str
    id: str = field(default_factory=_new_id, compare=False)
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call begins; its arguments follow."""

    name: str
    id: str = field(default_factory=_new_id, compare=False)


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the arguments of the call that began last. is_end: the last of them."""

    text: str
    is_end: bool = False


CallPiece = CallStart | CallArguments
Piece = str | CallPiece


class ToolParser(ABC):
    """The parser of one answer. names: of the tools that may be called.

    MARKS: what a form writes behind the arguments, white space apart. One that is missing is not missed.
    """

    MARKS: Sequence[str] = ()

    def __init__(self, names: Collection[str]) -> None:
        self.names = names
        self._held = ""  # what has come and is neither text nor part of a call yet
        self._open: JsonEnd | None = None  # of the arguments that `_held` goes on with
        self._marks: Sequence[str] = ()  # that may follow

    def feed(self, text: str) -> list[Piece]:
        """What `text` decides, in order."""
        self._held += text
        return self._read(last=False)

    def finish(self) -> list[Piece]:
        """What is left, now that no more text comes."""
        pieces = self._read(last=True)
        assert not self._held
        return pieces

    def _read(self, last: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while self._held:
            if self._open is not None:
                pieces.append(self._arguments(self._open))
                continue
            if self._marks and not self._skip_mark(last):
                break
            if self._marks or not self._held:
                continue
            found = self._find(last)
            if not found:
                break
            pieces += found
        return pieces

    @abstractmethod
    def _find(self, last: bool) -> list[Piece]:
        """Take the beginning of `_held` that is decided; nothing where that is none, everything where it is
        the `last` of the text. Outside of calls.
        """

    def _begin_call(self, name: str) -> CallStart:
        """The call of `name`, whose arguments `_held` begins with."""
        self._open = JsonEnd()
        return CallStart(name)

    def _whole_call(self, name: str, arguments: str) -> list[Piece]:
        """A call that was not known before its end, which `_held` begins behind."""
        return [CallStart(name), CallArguments(arguments, is_end=True)]

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken

    def _arguments(self, opened: JsonEnd) -> CallArguments:
        end = opened.feed(self._held)
        if end is None:
            return CallArguments(self._take(len(self._held)))
        self._open, self._marks = None, self.MARKS
        return CallArguments(self._take(end), is_end=True)

    def _skip_mark(self, last: bool) -> bool:
        """Whether it is known if the next of `_marks` is there; if so it is taken."""
        self._held = self._held.lstrip()
        mark = self._marks[0]
        rest = self._held[: len(mark)]
        if rest != mark and mark.startswith(rest) and not last:
            return False
        if mark.startswith(rest):
            self._take(len(rest))
        self._marks = self._marks[1:]
        return True


def joined(pieces: Iterable[Piece]) -> list[str | ToolCall]:
    """Texts and calls, as these pieces make them up; no text is empty."""
    parts: list[tuple[CallStart | None, list[str]]] = []
    is_whole = True
    for piece in pieces:
        match piece:
            case CallStart():
                parts.append((piece, []))
                is_whole = False
            case CallArguments(text):
                parts[-1][1].append(text)
                is_whole = piece.is_end
            case "":
                pass
            case str():
                if not parts or parts[-1][0] is not None:
                    parts.append((None, []))
                parts[-1][1].append(piece)
    whole: list[str | ToolCall] = [
        "".join(texts) if start is None else ToolCall(start.name, "".join(texts), start.id)
        for start, texts in parts
    ]
    if whole and isinstance(call := whole[-1], ToolCall):  # only the end of the answer cuts one off
        whole[-1] = replace(call, is_whole=is_whole)
    return whole


def read_json(written: str) -> Any:
    """The value that `written` spells; None if it is no JSON, too deep, or holds what is no text."""
    try:
        value = json.loads(written, parse_constant=_refuse, parse_float=_finite)
        if is_too_deep(value):
            return None
        dumps(value).encode()  # half of a surrogate pair is no character
    except (ValueError, RecursionError):
        return None
    return value


def read_object(written: str) -> dict[str, Any] | None:
    """The JSON object that `written` spells; None if it is anything else."""
    value = read_json(written)
    return value if isinstance(value, dict) else None


def read_beginning(written: str) -> dict[str, Any] | None:
    """The JSON object that `written` spells, or whatever is whole of one that it begins; None if neither."""
    try:
        value = from_json(written, allow_inf_nan=False, allow_partial=True)
    except ValueError:
        return None
    return read_object(dumps(value))


def dumps(value: Any) -> str:
    """The JSON of arguments that were not written as JSON."""
    return json.dumps(value, ensure_ascii=False)


def skip_space(text: str, at: int) -> int:
    """The index of the first character from `at` on that is no white space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(written: str) -> float:
    number = float(written)
    if number in (float("inf"), float("-inf")):
        raise ValueError("too large")
    return number
