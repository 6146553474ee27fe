"""A tokenizer.model with the special tokens of its family, which the file itself leaves out.

Finds special tokens in a text and has the file's own library encode what is between them. Knows
nothing of the bytes of either format.
"""

from collections.abc import Mapping
from functools import cached_property
from re import Pattern
from typing import Protocol

from gllm.frontend.detokenizer import Reading
from gllm.frontend.families import Family
from gllm.frontend.vocabulary import Added, spellings


class PlainModel(Protocol):
    """What a tokenizer.model knows: plain text. controls: its pieces that no text is made of, by id."""

    num_ids: int
    controls: dict[int, str]
    reading: Reading

    def encode(self, text: str) -> list[int]: ...
    def entry(self, token: int) -> str: ...


class ModelVocabulary:
    """The `Vocabulary` of a tokenizer.model.

    added: what the checkpoint's other files say, by id; it counts more than the family's order.
    Raises ValueError where that leaves out a token of the family's prefix.
    """

    def __init__(self, model: PlainModel, family: Family, added: Mapping[int, str]) -> None:
        self._model = model
        self._family = family
        self.reading = model.reading
        appended = {model.num_ids + place: text for place, text in enumerate(family.appended)}
        told = set(added.values())
        appended = {token: text for token, text in appended.items() if text not in told} | dict(added)
        # Where the family has tokens of its own, those of the file are no part of any prompt's text.
        are_parsed = not family.appended
        controls = {token: Added(text, is_parsed=are_parsed) for token, text in model.controls.items()}
        self.added = controls | {token: Added(text) for token, text in appended.items()}
        self.num_ids = max(model.num_ids, *(token + 1 for token in self.added))
        self._ids = {item.text: token for token, item in self.added.items()}
        missing = [text for text in family.prefix if text not in self._ids]
        if missing:
            raise ValueError(f"it has no token {missing[0]}, with which every text of {family.name} begins")
        self._prefix = [self._ids[text] for text in family.prefix]

    @cached_property
    def pattern(self) -> Pattern[str] | None:
        parsed = [item.text for item in self.added.values() if item.is_parsed]
        return spellings(parsed, self._family.words, self._family.prefix[0] if self._family.words else "")

    def encode(self, text: str, with_prefix: bool) -> list[int]:
        ids: list[int] = []
        end = 0
        for match in self.pattern.finditer(text) if self.pattern else ():
            ids += self._model.encode(text[end : match.start()])
            ids.append(self._ids[match[0]])
            end = match.end()
        ids += self._model.encode(text[end:])
        if with_prefix and ids[: len(self._prefix)] != self._prefix:
            return self._prefix + ids
        return ids

    def encode_literally(self, text: str) -> list[int]:
        return self._model.encode(text)

    def entry(self, token: int) -> str | None:
        if token in self.added:
            return self.added[token].text
        return self._model.entry(token) if 0 <= token < self._model.num_ids else None
