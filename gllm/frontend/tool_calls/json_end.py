"""Finds where a JSON object ends in text that comes in pieces. Knows brackets and strings, nothing else."""

import re

from gllm.frontend.json_depth import MAX_DEPTH

_OUTSIDE = re.compile(r'["{}\[\]]')
_INSIDE = re.compile(r'["\\]')


class JsonEnd:
    """The end of one object; each character is looked at once. What is no JSON may end anywhere.

    max_depth: of brackets in each other. One more ends the object before it.
    """

    def __init__(self, max_depth: int = MAX_DEPTH) -> None:
        self._max_depth = max_depth
        self._depth = 0
        self._in_string = self._is_escaped = False

    def feed(self, text: str) -> int | None:
        """The number of characters of `text`, the next of the object, that belong to it; None: all, and
        the end has not come.
        """
        at = 0
        while at < len(text):
            if self._is_escaped:
                self._is_escaped = False
                at += 1
                continue
            match = (_INSIDE if self._in_string else _OUTSIDE).search(text, at)
            if match is None:
                return None
            at = match.end()
            character = match[0]
            if character == "\\":
                self._is_escaped = True
            elif character == '"':
                self._in_string = not self._in_string
            elif character in "{[":
                if self._depth == self._max_depth:
                    return at - 1
                self._depth += 1
            else:
                self._depth -= 1
                if not self._depth:
                    return at
        return None
