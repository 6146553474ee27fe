"""A tiktoken tokenizer.model (llama3, glm4): a line a piece, its bytes in base64 and its rank.

Knows plain text and its pieces; special tokens, which are not in the file, are model_vocabulary.py's.
"""

import base64
import re

from tiktoken import Encoding

from gllm.frontend.detokenizer import Reading

FIRST_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\r?(?:\n|\Z)")
# tiktoken's regular expressions run out of stack, and panic, on longer runs of white space.
LONGEST_BLANK = 50_000
TOO_BLANK = re.compile(rf"\s{{{LONGEST_BLANK}}}")


def is_tiktoken(content: bytes) -> bool:
    """Whether `content` begins like such a file."""
    return FIRST_LINE.match(content) is not None


class TiktokenModel:
    """The pieces of a file. pattern: how text is split into words before it is merged.

    Raises ValueError for what is no such file.
    """

    def __init__(self, content: bytes, pattern: str) -> None:
        ranks = _ranks(content)
        self._pieces = sorted(ranks, key=ranks.__getitem__)
        self.num_ids = len(ranks)
        self.controls: dict[int, str] = {}
        self.reading = Reading(self._bytes_of, b"", "replace")
        self._encoding = Encoding(
            "tokenizer.model", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
        )

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`; nothing in it is a special token."""
        if len(text) <= LONGEST_BLANK:
            return self._encoding.encode_ordinary(text)
        ids: list[int] = []
        start = 0
        for run in TOO_BLANK.finditer(text):
            ids += self._encoding.encode_ordinary(text[start : run.end()])
            start = run.end()
        return ids + self._encoding.encode_ordinary(text[start:])

    def entry(self, token: int) -> str:
        """The piece of `token` as far as it is text."""
        return self._pieces[token].decode(errors="replace")

    def _bytes_of(self, token: int) -> bytes:
        return self._pieces[token] if 0 <= token < self.num_ids else b""


def _ranks(content: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        try:
            piece, rank = line.split()
            ranks[base64.b64decode(piece, validate=True)] = int(rank)
        except ValueError:
            raise ValueError(f"its line {number} is not a piece in base64 and a rank") from None
        if len(ranks) != number:
            raise ValueError(f"its line {number} repeats a piece")
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"its {len(ranks)} ranks are not the numbers below {len(ranks)}")
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError("it has not all 256 single bytes, so that some text has no tokens")
    return ranks
