"""Finds where a JSON value ends in text that comes in pieces. Knows brackets and strings, nothing else."""

import re

_OUTSIDE = re.compile(r'["{}\[\]]')
_INSIDE = re.compile(r'["\\]')


class JsonEnd:
    """The end of one object or array; each character is looked at once."""

    def __init__(self, start: int) -> None:
        self._at = start  # of the value's first bracket
        self._depth = 0
        self._in_string = False

    def find(self, text: str) -> int | None:
        """The index behind the value in `text`, which begins with what was given before; None: not there.

        What is no JSON may end anywhere.
        """
        while self._at < len(text):
            match = (_INSIDE if self._in_string else _OUTSIDE).search(text, self._at)
            if match is None:
                self._at = len(text)
                return None
            self._at = match.end()
            character = match[0]
            if character == "\\":
                if self._at == len(text):
                    self._at -= 1  # what it escapes has not come yet
                    return None
                self._at += 1
            elif character == '"':
                self._in_string = not self._in_string
            else:
                self._depth += 1 if character in "{[" else -1
                if self._depth <= 0:
                    return self._at
        return None
