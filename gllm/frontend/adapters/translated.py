"""A request of another API as the body of a chat, and the way back for what is wrong with it.

Knows the names of both; nothing of what they mean.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gllm.frontend.params import ParameterError

MESSAGE = re.compile(r"messages\[(\d+)\]")


@dataclass(slots=True)
class Translated:
    """chat: the body of the same chat in /v1/chat/completions.

    paths: for each of its messages where the request has it. names: patterns of field names of a chat,
    and what the request calls them; the first that fits counts.
    """

    chat: dict[str, Any]
    names: Mapping[str, str]
    paths: list[str] = field(default_factory=list)

    def say(self, path: str, message: dict[str, Any]) -> None:
        """One more message, which the request has at `path`."""
        self.chat["messages"].append(message)
        self.paths.append(path)

    @contextmanager
    def in_its_words(self) -> Iterator[None]:
        """An error about a field of the chat names that of the request."""
        try:
            yield
        except ParameterError as error:
            sentence, param = str(error), error.param or ""
            translated = self._translated(param)
            error.param = translated or None
            if param and translated != param:
                error.args = (sentence.replace(param, translated),)
            raise

    def _translated(self, param: str) -> str:
        if (match := MESSAGE.match(param)) and int(match[1]) < len(self.paths):
            return self.paths[int(match[1])] + param[match.end() :]
        for pattern, name in self.names.items():
            translated, number = re.subn(f"^{pattern}", name, param)
            if number:
                return translated
        return param


def text_of(path: str, content: Any, kinds: tuple[str, ...]) -> str:
    """The text of a string or a list of parts of these kinds, joined by line ends; raises `ParameterError`.

    What such a part says beside its text (annotations, breakpoints of a cache) changes no output.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ParameterError(path, f"{path} must be a string or a list of text parts")
    return "\n".join(part_text(f"{path}[{index}]", part, kinds) for index, part in enumerate(content))


def part_text(path: str, part: Any, kinds: tuple[str, ...]) -> str:
    """The text of one part."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise ParameterError(path, f"{path} must be an object with a type")
    if kind not in kinds:
        raise ParameterError(
            f"{path}.type",
            f"{path} is of type {kind!r:.80}, but this model reads text only",
            "unsupported_parameter",
        )
    if not isinstance(part.get("text"), str):
        raise ParameterError(f"{path}.text", f"{path}.text must be a string")
    text: str = part["text"]
    return text
