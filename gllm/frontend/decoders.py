"""The decoder part of a tokenizer.json: which bytes each vocabulary entry stands for.

Knows the decoders of the `tokenizers` library by their JSON; nothing of streams or of encoding.
"""

import re
from collections.abc import Callable
from typing import Any

from gllm.frontend.detokenizer import ONE_EACH, Reading

BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class UnknownDecoder(ValueError):
    """This tokenizer.json turns tokens to text in a way that is not known here."""


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's table: the printable character that stands for each byte in a byte-level vocabulary."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_ALPHABET = _byte_alphabet()


def json_reading(decoder: Any, entry_of: Callable[[int], str | None]) -> Reading:
    """How the `decoder` of a tokenizer.json reads; raises `UnknownDecoder`.

    entry_of: a token id to its vocabulary entry, None for an unused row of the model.
    """
    steps = _steps(decoder)
    kinds = [step["type"] for step in steps]
    encoded: Callable[[str], bytes]
    if kinds == ["ByteLevel"]:
        encoded, cut, errors = byte_level, b"", "replace"
    elif kinds and set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        encoded, cut = _chain(steps)
        errors = ONE_EACH
    else:
        raise UnknownDecoder(
            f"its decoder is {' + '.join(kinds) or 'missing'}; known are ByteLevel and chains of Replace, "
            "ByteFallback, Fuse, Strip and Metaspace"
        )

    def bytes_of(token: int) -> bytes:
        entry = entry_of(token)
        return b"" if entry is None else encoded(entry)

    return Reading(bytes_of, cut, errors)


def _steps(decoder: Any) -> list[Any]:
    """The chain of decoders as a flat list."""
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for part in decoder["decoders"] for step in _steps(part)]
    return [decoder]


def byte_level(entry: str) -> bytes:
    """The bytes that an entry of a byte-level vocabulary stands for."""
    try:
        return bytes([BYTE_ALPHABET[character] for character in entry])
    except KeyError:
        return entry.encode()


def _chain(steps: list[Any]) -> tuple[Callable[[str], bytes], bytes]:
    """SentencePiece's decoding, as tokenizer.json files spell it: an entry's bytes, and what is cut."""
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

    return encoded, cut
