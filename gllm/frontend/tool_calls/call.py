"""What a parser of tool calls is: text goes in piece by piece, text and whole calls come out.

A call comes out once it is complete and names a tool of the request, so that what only looks like a
call stays text. Every decision depends on the text alone, never on how it was cut: a stream and a
whole answer hold the same. Knows nothing of tokens, messages or HTTP.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NoReturn
from uuid import uuid4

from gllm.frontend.json_depth import is_too_deep


def _new_id() -> str:
    return f"call_{uuid4().hex}"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model wants tool `name` called. arguments: the JSON of an object."""

    name: str
    arguments: str
    id: str = field(default_factory=_new_id, compare=False)


Piece = str | ToolCall


class ToolParser(ABC):
    """The parser of one answer. names: of the tools that may be called."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = names
        self._held = ""  # what has come and is neither text nor a call yet

    def feed(self, text: str) -> list[Piece]:
        """What `text` decides, in order."""
        self._held += text
        return self._decide(last=False)

    def finish(self) -> list[Piece]:
        """What is left, now that no more text comes."""
        pieces = self._decide(last=True)
        assert not self._held
        return pieces

    @abstractmethod
    def _decide(self, last: bool) -> list[Piece]:
        """Take the beginning of `_held` that is decided; all of it where it is the `last` of the text."""

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken

    def _call(self, value: Any) -> ToolCall | None:
        """The call in an object with a name and its arguments (Llama says parameters); None if it is none."""
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return None
        if value["name"] not in self.names:
            return None
        keys = value.keys() - {"name", "id", "type"}
        if keys not in ({"arguments"}, {"parameters"}):
            return None
        arguments = value[keys.pop()]
        return ToolCall(value["name"], dumps(arguments)) if isinstance(arguments, dict) else None


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


def dumps(value: Any) -> str:
    """The JSON of arguments, as a client gets it."""
    return json.dumps(value, ensure_ascii=False)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(written: str) -> float:
    number = float(written)
    if number in (float("inf"), float("-inf")):
        raise ValueError("too large")
    return number
