"""Calls between tags, as Hermes and Qwen write them:

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

Any number of them, with text around. Source: the chat templates of Hermes 2 Pro and Qwen2.5.
"""

from collections.abc import Collection

from gllm.frontend.tool_calls.call import Piece, skip_space
from gllm.frontend.tool_calls.call_object import CallObjectParser

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class TaggedParser(CallObjectParser):
    MARKS = ("}", CLOSE)

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._at = len(OPEN)  # behind the tag and the white space after it, in a call

    def _find(self, last: bool) -> list[Piece]:
        start = self._held.find(OPEN)
        if start != 0:
            length = start if start > 0 else len(self._held) - (0 if last else overlap(self._held, OPEN))
            return [self._take(length)] if length else []
        held = self._held
        self._at = skip_space(held, self._at)
        if self._at == len(held):
            return self._text(self._at) if last else []
        if held[self._at] != "{":
            return self._text(self._at)
        pieces = self._call_at(self._at, last)
        if pieces is None:
            return self._text(self._looked)
        if pieces:
            self._at = len(OPEN)
        return pieces

    def _text(self, length: int) -> list[Piece]:
        """What was looked at and is no call, so that nothing is looked at twice."""
        self._at = len(OPEN)
        self._begin_object()
        return [self._take(length)]


def overlap(text: str, mark: str) -> int:
    """The length of the longest end of `text` that begins `mark` without being all of it."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
