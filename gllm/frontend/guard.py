"""A user's text that spells a special token stays text.

"<|im_end|>" in a message must not end the turn. Such spellings are hidden behind marks while the
chat template renders; whatever special token is then left comes from the template and becomes its
id, and the text between is encoded without looking for special tokens. Only messages that contain
such a spelling come this way, since the texts on both sides of a special token are encoded by themselves
here, where a tokenizer that puts a space in front of the whole text only (Metaspace "first")
would not put one. (In /v1/completions the prompt is the caller's own, and special tokens in it are
parsed, as in Hugging Face's libraries.)
"""

import re
import secrets
from typing import Any

from gllm.frontend.tokenizer import Tokenizer

# Private-use characters and decimal digits: templates neither strip nor change them.
_OPEN, _CLOSE = "\uf5d0", "\uf5d1"
_MARK = re.compile(f"{_OPEN}([0-9]+)[.]([0-9]+){_CLOSE}")


class Guard:
    """The hidden spellings of one chat."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._nonce = str(secrets.randbits(64))  # no user can write a mark
        self._hidden: list[str] = []

    def hide(self, value: dict[str, Any]) -> dict[str, Any]:
        """`value`, a message or a tool, with a mark for each special token that its strings spell."""
        pattern = self._tokenizer.special_pattern
        return value if pattern is None else self._hide(value, pattern)

    def _hide(self, value: Any, pattern: re.Pattern[str]) -> Any:
        match value:
            case str():
                return pattern.sub(self._mark, value)
            case dict():
                return {
                    pattern.sub(self._mark, key): self._hide(item, pattern) for key, item in value.items()
                }
            case list():
                return [self._hide(item, pattern) for item in value]
        return value

    def encode(self, rendered: str) -> list[int]:
        """The tokens of the rendered chat, in which hidden spellings are text again."""
        pattern = self._tokenizer.special_pattern
        if pattern is None or not self._hidden:
            return self._tokenizer.encode(rendered, add_special_tokens=False)
        ids: list[int] = []
        end = 0
        strip_left = False  # the special token before swallows the space behind it
        for match in pattern.finditer(rendered):
            token = self._tokenizer.special_id(match[0])
            left, right = self._tokenizer.strips(token)
            ids += self._encode_text(rendered[end : match.start()], strip_left, left)
            ids.append(token)
            end, strip_left = match.end(), right
        return ids + self._encode_text(rendered[end:], strip_left, False)

    def _mark(self, match: re.Match[str]) -> str:
        self._hidden.append(match[0])
        return f"{_OPEN}{self._nonce}.{len(self._hidden) - 1}{_CLOSE}"

    def _encode_text(self, text: str, strip_left: bool, strip_right: bool) -> list[int]:
        text = text.lstrip() if strip_left else text
        text = text.rstrip() if strip_right else text
        if not text:
            return []
        return self._tokenizer.encode_literally(_MARK.sub(self._unmark, text))

    def _unmark(self, mark: re.Match[str]) -> str:
        return self._hidden[int(mark[2])] if mark[1] == self._nonce else mark[0]
