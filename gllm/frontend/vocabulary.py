"""What a tokenizer needs of the file that defines its tokens, whatever the format.

Knows nothing of the formats themselves (json_vocabulary.py, model_vocabulary.py).
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gllm.frontend.detokenizer import Reading


@dataclass(frozen=True, slots=True)
class Added:
    """A token that stands outside the pieces of the vocabulary.

    is_special: shows nothing in answers. is_parsed: its spelling in a text becomes the token.
    lstrip, rstrip: it swallows the white space on that side.
    """

    text: str
    is_special: bool = True
    is_parsed: bool = True
    lstrip: bool = False
    rstrip: bool = False


class Vocabulary(Protocol):
    """Tokens, and the text that they stand for. Safe to use from several threads.

    added: by id. num_ids: one more than the highest id.
    """

    num_ids: int
    reading: Reading

    @property
    def added(self) -> Mapping[int, Added]: ...

    def encode(self, text: str, with_prefix: bool) -> list[int]:
        """The tokens of `text`, special ones parsed; with what the model wants in front, if asked."""

    def encode_literally(self, text: str) -> list[int]:
        """The tokens of `text`, in which no special token is recognised."""

    def entry(self, token: int) -> str | None:
        """The vocabulary entry of `token` (not its text), None for an unused row."""

    @property
    def pattern(self) -> re.Pattern[str] | None:
        """Finds the special tokens that a text spells; None where there are none."""


def spellings(
    texts: Collection[str], words: Collection[str] = (), behind: str = ""
) -> re.Pattern[str] | None:
    """Finds any of `texts`, the longest first; those among `words` only directly behind `behind`."""
    always = [text for text in texts if text not in words]
    parts = [_any_of(always)] if always else []
    parts += [f"(?<={re.escape(behind)}){_any_of(list(words))}"] if words else []
    return re.compile("|".join(parts)) if parts else None


def _any_of(words: list[str]) -> str:
    """A regular expression for any of `words`, the longest first: a tree, so that hundreds of words
    with one beginning cost no more than one word."""
    tree: dict[str, Any] = {}
    for word in words:
        node = tree
        for character in word:
            node = node.setdefault(character, {})
        node[""] = {}  # a word ends here

    def write(node: dict[str, Any]) -> str:
        branches = [re.escape(key) + write(child) for key, child in sorted(node.items()) if key]
        if len(branches) == 1 and "" not in node:
            return branches[0]
        return f"(?:{'|'.join(branches)})" + ("?" if "" in node else "") if branches else ""

    return write(tree)
