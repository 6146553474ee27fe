"""A model's tokens as the grammar engine wants them: bytes, and a way from text to tokens.

Knows tokenizers and the engine's tokenizer; nothing of grammars. Every format of vocabulary is alike
here, since a token is the bytes that it shows: byte-level entries, byte pieces and white-space marks
have been read already. Special tokens are none of text, so that no grammar can ask for one.
"""

from collections.abc import Sequence

from llguidance import LLTokenizer, TokenizerWrapper

from gllm.frontend.tokenizer import Tokenizer


class GrammarTokens:
    """The interface that the engine asks of a tokenizer.

    The engine wants texts that a grammar forces (a key, say) in the tokens that a model would write.
    """

    bos_token_id: int | None = None

    def __init__(self, tokenizer: Tokenizer, eos_token_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.tokens = tokenizer.pieces()
        self.eos_token_id = eos_token_ids[0]
        self.special_token_ids = sorted({*tokenizer.special_token_ids, *eos_token_ids})
        for token in self.special_token_ids:
            # The engine knows special tokens by a name, which must not be empty; grammars cannot say it.
            self.tokens[token] = f"<|{token}|>".encode()
        special = set(self.special_token_ids)
        self._id_of = {
            piece: token for token, piece in enumerate(self.tokens) if piece and token not in special
        }
        self._longest = max(map(len, self._id_of), default=0)

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokens whose bytes are those of `text`."""
        raw = text if isinstance(text, bytes) else text.encode()
        ids = self._tokenizer.encode_literally(raw.decode(errors="replace"))
        if b"".join([self.tokens[token] for token in ids]) == raw:
            return ids
        # A tokenizer that puts a space in front of every text, or none that stands within one.
        return self._longest_first(raw)

    def _longest_first(self, raw: bytes) -> list[int]:
        ids = []
        start = 0
        while start < len(raw):
            for end in range(min(len(raw), start + self._longest), start, -1):
                token = self._id_of.get(raw[start:end])
                if token is not None:
                    ids.append(token)
                    start = end
                    break
            else:
                return ids  # the vocabulary lacks this byte: no text of it can be written
        return ids


def engine_tokenizer(tokenizer: Tokenizer, eos_token_ids: Sequence[int]) -> LLTokenizer:
    """The engine's own form of a tokenizer; takes about a second for 150,000 tokens.

    eos_token_ids: the tokens that end an answer, at least one.
    """
    tokens = TokenizerWrapper(GrammarTokens(tokenizer, eos_token_ids))
    return LLTokenizer(tokens, eos_token=list(eos_token_ids))
