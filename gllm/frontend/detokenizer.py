"""Tokens to text, one by one, never half a character.

A token is a piece of bytes: the text is the pieces joined and read as UTF-8. So a stream needs one
table look-up a token and keeps at most the three bytes of an unfinished character; the
concatenation of what it yields is the text of all tokens. Knows the decoder part of a
tokenizer.json, nothing of encoding. (The library's own `DecodeStream` does not serve: it holds
broken bytes back for ever and decodes them again with every token.)
"""

import codecs
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REPLACEMENT = "\ufffd"
BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
UNFINISHED = 4  # tokens of a prompt's end that may hold the beginning of a character


class UnknownDecoder(ValueError):
    """This tokenizer.json turns tokens to text in a way that is not known here."""


def _one_each(error: UnicodeError) -> tuple[str, int]:
    """SentencePiece's rule: every broken byte is shown, one replacement character each."""
    assert isinstance(error, UnicodeDecodeError)
    return REPLACEMENT * (error.end - error.start), error.end


codecs.register_error("gllm-one-each", _one_each)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's table: the printable character that stands for each byte in a byte-level vocabulary."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_ALPHABET = _byte_alphabet()


@dataclass(frozen=True, slots=True)
class Reading:
    """How a decoder reads: an entry's bytes, what is cut from the first piece of a text, and the
    name of the error handler that shows broken bytes."""

    encoded: Callable[[str], bytes]
    cut: bytes
    errors: str


class Pieces(dict[int, bytes]):
    """The bytes of each token id, filled as ids come up.

    decoder: that of a tokenizer.json; raises `UnknownDecoder`.
    text_of: a token id to its vocabulary entry (None: an unused row of the model, which shows nothing).
    literal: tokens whose text is meant as it stands. hidden: ids that show nothing.
    """

    def __init__(
        self,
        decoder: Any,
        text_of: Callable[[int], str | None],
        literal: Mapping[int, str],
        hidden: Collection[int],
    ) -> None:
        super().__init__()
        reading = _reading(decoder)
        self.cut, self.errors = reading.cut, reading.errors
        self._encoded = reading.encoded
        self._text_of = text_of
        self._literal = literal
        self._hidden = hidden

    def __missing__(self, token: int) -> bytes:
        piece = self[token] = self._piece(token)
        return piece

    def _piece(self, token: int) -> bytes:
        if token in self._hidden:
            return b""
        if token in self._literal:
            return self._literal[token].encode()
        entry = self._text_of(token)
        return b"" if entry is None else self._encoded(entry)


def _reading(decoder: Any) -> Reading:
    steps = _steps(decoder)
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return Reading(_byte_level, b"", "replace")
    if kinds and set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        return _chain(steps)
    raise UnknownDecoder(
        f"its decoder is {' + '.join(kinds) or 'missing'}; known are ByteLevel and chains of Replace, "
        "ByteFallback, Fuse, Strip and Metaspace"
    )


def _steps(decoder: Any) -> list[Any]:
    """The chain of decoders as a flat list."""
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for part in decoder["decoders"] for step in _steps(part)]
    return [decoder]


def _byte_level(entry: str) -> bytes:
    try:
        return bytes([BYTE_ALPHABET[character] for character in entry])
    except KeyError:
        return entry.encode()


def _chain(steps: list[Any]) -> Reading:
    """SentencePiece's decoding, as tokenizer.json files spell it."""
    replacements: list[tuple[str, str]] = []
    cut = b""
    for step in steps:
        match step["type"]:
            case "Replace":
                if "String" not in step["pattern"]:
                    raise UnknownDecoder("its decoder uses a regular expression, which a stream cannot")
                replacements.append((step["pattern"]["String"], step["content"]))
            case "Metaspace":
                replacements.append((step["replacement"], " "))
                cut = b"" if step.get("prepend_scheme") == "never" else b" "
            case "Strip":
                if step["stop"]:
                    raise UnknownDecoder("its decoder strips the end of the text, which a stream cannot")
                cut = step["content"].encode() * step["start"]
    falls_back = any(step["type"] == "ByteFallback" for step in steps)

    def encoded(entry: str) -> bytes:
        if falls_back and (byte := BYTE_PIECE.fullmatch(entry)):
            return bytes([int(byte[1], 16)])
        for pattern, content in replacements:
            entry = entry.replace(pattern, content)
        return entry.encode()

    return Reading(encoded, cut, "gllm-one-each")


class Detokenizer:
    """The text of one stream of tokens.

    after: the tokens before it. With none the text begins here (some tokenizers then drop a
    leading space); a completion goes on after its prompt, even in the middle of a character.
    """

    def __init__(self, table: Pieces, after: Sequence[int] = ()) -> None:
        self._table = table
        self._at_start = len(after) <= UNFINISHED  # and none of them shows anything
        self._pending = b""  # the beginning of a character
        self.feed(after[-UNFINISHED:])

    def feed(self, tokens: Iterable[int]) -> str:
        """The characters that `tokens` complete."""
        table = self._table
        data = b"".join([table[token] for token in tokens])
        if self._at_start and data:
            data = data.removeprefix(table.cut)
            self._at_start = False
        if self._pending:
            data = self._pending + data
        text, used = codecs.utf_8_decode(data, table.errors, False)
        self._pending = data[used:]
        return text

    def finish(self) -> str:
        """What is left: replacement characters if the tokens ended within a character."""
        text, _ = codecs.utf_8_decode(self._pending, self._table.errors, True)
        self._pending = b""
        return text
