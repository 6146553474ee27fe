"""Tokens to text, one by one, never half a character.

A token is a piece of bytes: the text is the pieces joined and read as UTF-8. So a stream needs one
table look-up a token and keeps at most the three bytes of an unfinished character; the
concatenation of what it yields is the text of all tokens. Knows nothing of files or of encoding.
(The `DecodeStream` of the `tokenizers` library does not serve: it holds broken bytes back for ever
and decodes them again with every token.)
"""

import codecs
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

REPLACEMENT = "\ufffd"
ONE_EACH = "gllm-one-each"  # an error handler of Python's codecs
UNFINISHED = 4  # tokens of a prompt's end that may hold the beginning of a character


def _one_each(error: UnicodeError) -> tuple[str, int]:
    """SentencePiece's rule: every broken byte is shown, one replacement character each."""
    assert isinstance(error, UnicodeDecodeError)
    return REPLACEMENT * (error.end - error.start), error.end


codecs.register_error(ONE_EACH, _one_each)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a vocabulary reads: the bytes of a token id (none for an unused row of the model), what is
    cut from the first piece of a text, and the name of the error handler that shows broken bytes."""

    bytes_of: Callable[[int], bytes]
    cut: bytes
    errors: str


class Pieces(dict[int, bytes]):
    """The bytes of each token id, filled as ids come up.

    literal: tokens whose text is meant as it stands. hidden: ids that show nothing.
    """

    def __init__(self, reading: Reading, literal: Mapping[int, str], hidden: Collection[int]) -> None:
        super().__init__()
        self.cut, self.errors = reading.cut, reading.errors
        self._bytes_of = reading.bytes_of
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
        return self._bytes_of(token)


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
