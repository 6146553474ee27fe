"""Calls that are the whole answer, as JSON objects.

Llama 3.1 writes {"name": "get_weather", "parameters": {"city": "Paris"}}, several with semicolons
between, perhaps behind <|python_tag|>. Source: Meta's prompt format of Llama 3.1, JSON based tool calling.
A grammar that demands calls makes an array of such objects.
"""

from collections.abc import Collection

from gllm.frontend.tool_calls.call import Piece, ToolCall, ToolParser, dumps, read_json, read_object
from gllm.frontend.tool_calls.json_end import JsonEnd
from gllm.frontend.tool_calls.tagged import skip_space

PYTHON_TAG, BETWEEN = "<|python_tag|>", ";"


class ObjectsParser(ToolParser):
    """Objects one after the other from the beginning on; behind the first thing that is none all is text."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._begins = True
        self._is_plain = False
        self._begin_object()

    def _begin_object(self) -> None:
        self._at = 0  # what is before was looked at; the object's first bracket, once that is there
        self._is_behind_mark = False
        self._object: JsonEnd | None = None

    def _decide(self, last: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while self._held and not self._is_plain:
            if self._object is None:
                start = self._find_object(last)
                if start is None:
                    break
                if start < 0:
                    self._is_plain = True
                    break
                self._at = start
                self._object = JsonEnd(start)
            end = self._object.find(self._held)
            if end is None:
                self._is_plain = last
                break
            call = self._call(read_json(self._held[self._at : end]))
            if call is None:
                self._is_plain = True
                break
            self._take(end)
            pieces.append(call)
            self._begins = False
            self._begin_object()
        if self._held and (self._is_plain or last):
            pieces.append(self._take(len(self._held)))
        return pieces

    def _find_object(self, last: bool) -> int | None:
        """Where the next object begins in `_held`; -1: nowhere, None: not decided yet."""
        held = self._held
        self._at = skip_space(held, self._at)
        if not self._is_behind_mark:
            mark = PYTHON_TAG if self._begins else BETWEEN
            rest = held[self._at : self._at + len(mark)]
            if rest == mark:
                self._at = skip_space(held, self._at + len(mark))
            elif mark.startswith(rest) and not last:
                return None
            elif not self._begins:
                return -1
            self._is_behind_mark = True
        if self._at == len(held):
            return -1 if last else None
        return self._at if held[self._at] == "{" else -1


class ArrayParser(ToolParser):
    """The array that a grammar for `tool_choice: "required"` makes."""

    def _decide(self, last: bool) -> list[Piece]:
        if not last or not self._held:
            return []
        written = self._take(len(self._held))
        values = read_json(written)
        calls = [self._call(value) for value in values] if isinstance(values, list) else []
        whole = [call for call in calls if call is not None]
        return [*whole] if whole and len(whole) == len(calls) else [written]


class ArgumentsParser(ToolParser):
    """The arguments alone, of the one function that `tool_choice` names."""

    def _decide(self, last: bool) -> list[Piece]:
        if not last or not self._held:
            return []
        written = self._take(len(self._held))
        arguments = read_object(written)
        (name,) = self.names
        return [written] if arguments is None else [ToolCall(name, dumps(arguments))]
