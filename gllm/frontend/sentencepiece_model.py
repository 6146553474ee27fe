"""A SentencePiece tokenizer.model (llama2, chatglm2, chatglm3), read by the library that made it.

Knows plain text and its pieces; special tokens that are not in the file are model_vocabulary.py's.
"""

from sentencepiece import SentencePieceProcessor

from gllm.frontend.detokenizer import ONE_EACH, Reading

SPACE = "\u2581"  # stands for a space in pieces


class SentencePieceModel:
    """The pieces of a model. controls: the pieces that no text is made of (`<s>`), by id.

    Raises ValueError for bytes that are no such model.
    """

    def __init__(self, content: bytes) -> None:
        self._processor = SentencePieceProcessor()
        try:
            self._processor.load_from_serialized_proto(content)
        except RuntimeError:
            raise ValueError("it is no SentencePiece model, or not the whole of one") from None
        self.num_ids = self._processor.vocab_size()
        self.controls = {
            token: self._processor.id_to_piece(token)
            for token in range(self.num_ids)
            if self._processor.is_control(token) or self._processor.is_unknown(token)
        }
        self.reading = Reading(self._bytes_of, b" " if self._drops_space() else b"", ONE_EACH)

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`; nothing in it is a control piece."""
        ids: list[int] = self._processor.encode(text)
        return ids

    def entry(self, token: int) -> str:
        """The piece of `token`, spaces and bytes spelled out."""
        piece: str = self._processor.id_to_piece(token)
        return piece

    def _drops_space(self) -> bool:
        """Whether the space in front of a whole text is not part of it; the library does not say so."""
        for token in range(self.num_ids):
            if self.entry(token).startswith(SPACE):
                return not self._processor.decode([token]).startswith(" ")
        return False

    def _bytes_of(self, token: int) -> bytes:
        if not 0 <= token < self.num_ids:
            return b""
        piece = self.entry(token)
        if self._processor.is_byte(token):
            return bytes([int(piece[3:5], 16)])  # <0xE4>
        return piece.replace(SPACE, " ").encode()
