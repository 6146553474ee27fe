"""Calls that are the whole answer, as JSON objects.

Llama 3.1 writes {"name": "get_weather", "parameters": {"city": "Paris"}}, several with semicolons
between, perhaps behind <|python_tag|>. Source: Meta's prompt format of Llama 3.1, JSON based tool calling.
A grammar that demands calls makes an array of such objects, or the arguments alone.
"""

from collections.abc import Collection

from gllm.frontend.tool_calls.call import Piece, ToolParser, skip_space
from gllm.frontend.tool_calls.call_object import CallObjectParser


class ObjectsParser(CallObjectParser):
    """Objects one after the other from the beginning on; behind the first thing that is none all is text.

    OPENING: what may be before the first, or must. BETWEEN: what must be between two.
    """

    OPENING, MUST_OPEN, BETWEEN = "<|python_tag|>", False, ";"

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._begins = True
        self._is_plain = False
        self._find_next()

    def _find_next(self) -> None:
        self._at = 0  # what is before was looked at
        self._is_behind_mark = False

    def _find(self, last: bool) -> list[Piece]:
        if not self._is_plain:
            start = self._start(last)
            if start is None:
                return []
            pieces = self._call_at(start, last) if start >= 0 else None
            if pieces:
                self._begins = False
                self._find_next()
            if pieces is not None:
                return pieces
            self._is_plain = True
        return [self._take(len(self._held))]

    def _start(self, last: bool) -> int | None:
        """Where the next object begins in `_held`; -1: nowhere, None: not decided yet."""
        held = self._held
        self._at = skip_space(held, self._at)
        if not self._is_behind_mark:
            mark = self.OPENING if self._begins else self.BETWEEN
            rest = held[self._at : self._at + len(mark)]
            if rest == mark:
                self._at = skip_space(held, self._at + len(mark))
            elif mark.startswith(rest) and not last:
                return None
            elif self.MUST_OPEN or not self._begins:
                return -1
            self._is_behind_mark = True
        if self._at == len(held):
            return -1 if last else None
        return self._at if held[self._at] == "{" else -1


class ArrayParser(ObjectsParser):
    """The array that a grammar for `tool_choice: "required"` makes."""

    OPENING, MUST_OPEN, BETWEEN = "[", True, ","
    MARKS = ("}", "]")


class ArgumentsParser(ToolParser):
    """The arguments alone, of the one function that `tool_choice` names."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._begins = True

    def _find(self, last: bool) -> list[Piece]:
        if self._begins:
            start = skip_space(self._held, 0)
            if start == len(self._held) and not last:
                return []
            self._begins = False
            if self._held[start:].startswith("{"):
                self._take(start)
                (name,) = self.names
                return [self._begin_call(name)]
        return [self._take(len(self._held))]
