"""Calls between tags, as Hermes and Qwen write them:

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

Any number of them, with text around. Source: the chat templates of Hermes 2 Pro and Qwen2.5.
"""

from collections.abc import Collection

from gllm.frontend.tool_calls.call import Piece, ToolParser, read_json
from gllm.frontend.tool_calls.json_end import JsonEnd

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class TaggedParser(ToolParser):
    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._begin_call()

    def _begin_call(self) -> None:
        self._at = len(OPEN)  # behind the tag and the white space after it, in a call
        self._object: JsonEnd | None = None
        self._object_end: int | None = None
        self._written = ""

    def _decide(self, last: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while self._held:
            start = self._held.find(OPEN)
            if start != 0:
                length = start if start > 0 else len(self._held) - (0 if last else overlap(self._held, OPEN))
                if not length:
                    break
                pieces.append(self._take(length))
                continue
            piece = self._decide_call(last)
            if piece is None:
                break
            pieces.append(piece)
            self._begin_call()
        return pieces

    def _decide_call(self, last: bool) -> Piece | None:
        """The piece at the tag that `_held` begins with; None: not decided yet.

        A piece of text goes to the end of what was looked at, so that nothing is looked at twice.
        """
        held = self._held
        if self._object is None:
            self._at = skip_space(held, self._at)
            if self._at == len(held):
                return self._take(len(held)) if last else None
            if held[self._at] != "{":
                return self._take(self._at)
            self._object = JsonEnd(self._at)
        if self._object_end is None:
            self._object_end = self._object.find(held)
            if self._object_end is None:
                return self._take(len(held)) if last else None
            start, self._at = self._at, self._object_end
            self._written = held[start : self._at]
        self._at = skip_space(held, self._at)
        rest = held[self._at : self._at + len(CLOSE)]
        if not CLOSE.startswith(rest):
            return self._take(self._object_end)
        if rest != CLOSE and not last:
            return None
        # A model that ends its answer here has forgotten the tag only.
        call = self._call(read_json(self._written))
        text = self._take(self._at + len(rest))
        return text if call is None else call


def overlap(text: str, mark: str) -> int:
    """The length of the longest end of `text` that begins `mark` without being all of it."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0


def skip_space(text: str, at: int) -> int:
    """The index of the first character from `at` on that is no white space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at
