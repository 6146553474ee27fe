"""A call as a JSON object, {"name": "get_weather", "arguments": {"city": "Paris"}}, found as its text comes.

In this order the call is known when its arguments begin. In any other it is known at its end, and is a
call only if all of it is valid JSON. Llama says parameters; an id and a type may stand beside them.
"""

import json
import re
from collections.abc import Collection, Sequence

from gllm.frontend.tool_calls.call import Piece, ToolParser, read_object, skip_space
from gllm.frontend.tool_calls.json_end import JsonEnd

MAX_HEAD = 512  # characters before the arguments of a call that is to be known by them

_S = r"[ \t\n\r]*"
_LABEL = rf'"(?:id|type)"{_S}:{_S}"[^"\\]*"'
_HEAD = re.compile(
    rf'\{{{_S}(?:{_LABEL}{_S},{_S})*"name"{_S}:{_S}"([^"\\]*)"{_S},{_S}(?:{_LABEL}{_S},{_S})*'
    rf'"(?:arguments|parameters)"{_S}:{_S}(?=\{{)'
)
_BEHIND = re.compile(rf"(?:,{_S}{_LABEL}{_S})+(?=\}})")


class CallObjectParser(ToolParser):
    """Of a form whose calls are such objects. MARKS begins with the object's own end."""

    MARKS: Sequence[str] = ("}",)

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._begin_object()

    def _begin_object(self) -> None:
        self._object = JsonEnd()
        self._looked = 0  # what is before in `_held` was looked at

    def _call_at(self, start: int, last: bool) -> list[Piece] | None:
        """The pieces of the call whose object `_held` has at `start`, taken with what is before; empty: not
        decided yet. None: it is no call, as was decided at `_looked`.
        """
        held = self._held
        self._looked = max(self._looked, start)
        if self._looked - start < MAX_HEAD:
            head = _HEAD.match(held, start, start + MAX_HEAD)
            if head is not None and head[1] in self.names:
                self._take(head.end())
                self._begin_object()
                return [self._begin_call(head[1])]
        end = self._object.feed(held[self._looked :])
        if end is None:
            self._looked = len(held)
            return None if last else []
        self._looked += end
        call = self._read_whole(held[start : self._looked])
        if call is None:
            return None
        self._take(self._looked)
        self._begin_object()
        self._marks = self.MARKS[1:]
        return self._whole_call(*call)

    def _read_whole(self, written: str) -> tuple[str, str] | None:
        """The name and the arguments in a whole object; None if it is no call."""
        value = read_object(written)
        if value is None or not isinstance(name := value.get("name"), str) or name not in self.names:
            return None
        keys = value.keys() - {"name", "id", "type"}
        if keys not in ({"arguments"}, {"parameters"}):
            return None
        key = keys.pop()
        return (name, member(written, key)) if isinstance(value[key], dict) else None

    def _skip_mark(self, last: bool) -> bool:
        self._held = self._held.lstrip()
        if self._marks[0] == "}" and self._held.startswith(","):
            end = self._held.find("}", 0, MAX_HEAD)
            if end < 0 and len(self._held) < MAX_HEAD and not last:
                return False
            behind = _BEHIND.match(self._held, 0, end + 1)
            if behind is not None:
                self._take(behind.end())
        return super()._skip_mark(last)


def member(written: str, key: str) -> str:
    """The text of the value that `key` has in the valid JSON of an object; of the last, if there are more."""
    decode = json.JSONDecoder().raw_decode
    found, at = "", 0
    while written[at] != "}":
        name, at = decode(written, skip_space(written, at + 1))
        start = skip_space(written, skip_space(written, at) + 1)
        _, at = decode(written, start)
        if name == key:
            found = written[start:at]
        at = skip_space(written, at)
    return found
