"""Calls whose first line is the tool's name, as ChatGLM3 and GLM-4 write them: the line that is empty
in other answers.

    get_weather                          get_weather
     ```python                           {"city": "Paris"}
    tool_call(city='Paris')
    ```

One call is the whole answer. ChatGLM3's own code evaluates the Python; here it is read as literals and
never run. Source: the prompt guides of ChatGLM3 and GLM-4.
"""

import re
from abc import abstractmethod
from collections.abc import Collection
from typing import Any

from gllm.frontend.tool_calls.call import Piece, ToolParser, dumps, read_object, skip_space


class NamedLineParser(ToolParser):
    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._is_plain = False
        self._name = ""
        self._at = 0  # behind the line with the name, and what was looked at there

    @abstractmethod
    def _find_arguments(self, last: bool) -> list[Piece] | None:
        """The pieces of the call of `_name`, whose arguments are to stand at `_at`, taken with what is
        before; empty: not decided yet. None: it is no call.
        """

    def _find(self, last: bool) -> list[Piece]:
        if not self._name and not self._is_plain:
            self._read_name()
        if self._name:
            pieces = self._find_arguments(last)
            if pieces:
                self._name = ""
            if pieces is not None:
                self._is_plain = bool(pieces)  # what follows the one call
                return pieces
        elif not self._is_plain and not last:
            return []
        self._name, self._is_plain = "", True
        return [self._take(len(self._held))]

    def _read_name(self) -> None:
        line, ended, rest = self._held.lstrip().partition("\n")
        name = line.rstrip()
        if ended and name in self.names:
            self._name, self._at = name, len(self._held) - len(rest)
        else:
            self._is_plain = bool(ended) or not any(known.startswith(name) for known in self.names)


class JsonLineParser(NamedLineParser):
    """GLM-4's: the arguments are JSON."""

    def _find_arguments(self, last: bool) -> list[Piece] | None:
        self._at = skip_space(self._held, self._at)
        if self._at == len(self._held):
            return None if last else []
        if self._held[self._at] != "{":
            return None
        self._take(self._at)
        return [self._begin_call(self._name)]


_FENCED = re.compile(r"\s*```(?:python)?\s*tool_call\((.*)\)\s*```\s*", re.DOTALL)
_PYTHON = re.compile(
    r"(?P<string>'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")|(?P<word>[^\W\d]\w*)|(?P<number>-?\d[\d.eE+-]*)"
    r"|(?P<mark>[\[\]{}:,=])|(?P<space>\s+)",
    re.DOTALL,
)
_WORDS = {"True": "true", "False": "false", "None": "null"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U00([0-9a-fA-F]{6})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": ""}


class PythonLineParser(NamedLineParser):
    """ChatGLM3's: the arguments are those of a call in Python."""

    def _find_arguments(self, last: bool) -> list[Piece] | None:
        if not last:
            return []
        fenced = _FENCED.fullmatch(self._held, self._at)
        arguments = None if fenced is None else keyword_literals(fenced[1])
        if arguments is None:
            return None
        self._take(len(self._held))
        return self._whole_call(self._name, dumps(arguments))


def keyword_literals(written: str) -> dict[str, Any] | None:
    """The values of `a='x', b=[1, None]`, translated to JSON word by word; None if it is anything else."""
    parts = ["{"]
    depth = at = 0
    begins_argument = True
    while at < len(written):
        token = _PYTHON.match(written, at)
        if token is None:
            return None
        at = token.end()
        text = token[0]
        match token.lastgroup:
            case "string":
                decoded = _ESCAPE.sub(_unescape, text[1:-1])
                parts.append(dumps(decoded))
            case "word" if begins_argument and text not in _WORDS:
                parts.append(dumps(text))
            case "word":
                if text not in _WORDS:
                    return None
                parts.append(_WORDS[text])
            case "mark" if text == "=":
                if depth:
                    return None
                parts.append(":")
            case "mark":
                if text == ":" and not depth:
                    return None
                depth += (text in "[{") - (text in "]}")
                if depth < 0:
                    return None
                parts.append(text)
            case _:
                parts.append(text)
        if token.lastgroup != "space":
            begins_argument = text == "," and not depth
    return read_object("".join([*parts, "}"]))


def _unescape(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    if code:
        return chr(int(code, 16)) if int(code, 16) < 0x110000 else match[0]
    return _ESCAPED.get(match[4], match[4] if match[4] in "'\"\\" else match[0])
