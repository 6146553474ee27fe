"""The vocabulary of a tokenizer.json, or of vocab.json with merges.txt, by the `tokenizers` library.

Knows nothing of what special tokens are for.
"""

import json
import threading
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from re import Pattern

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from gllm.frontend.decoders import json_reading
from gllm.frontend.families import Family
from gllm.frontend.vocabulary import Added, spellings


class JsonVocabulary:
    """The `Vocabulary` of a `tokenizers.Tokenizer`.

    special: texts of tokens that are special even if the file does not say so.
    Raises `UnknownDecoder`.
    """

    def __init__(self, backend: tokenizers.Tokenizer, special: Collection[str] = ()) -> None:
        backend.no_truncation()  # what was set for training must not cut a prompt
        backend.no_padding()
        _flag_special(backend, special)
        self.backend = backend
        self.added = {
            token: Added(item.content, item.special, item.special, item.lstrip, item.rstrip)
            for token, item in backend.get_added_tokens_decoder().items()
        }
        self.num_ids = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.reading = json_reading(json.loads(backend.to_str())["decoder"], backend.id_to_token)
        self._lock = threading.Lock()

    @cached_property
    def pattern(self) -> Pattern[str] | None:
        return spellings([item.text for item in self.added.values() if item.is_parsed])

    def encode(self, text: str, with_prefix: bool) -> list[int]:
        # The batch form leaves out the character offsets, which nobody reads.
        ids: list[int] = self.backend.encode_batch_fast([text], add_special_tokens=with_prefix)[0].ids
        return ids

    def encode_literally(self, text: str) -> list[int]:
        with self._lock:
            backend = self._literal_backend
        ids: list[int] = backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    def entry(self, token: int) -> str | None:
        entry: str | None = self.backend.id_to_token(token)
        return entry

    @cached_property
    def _literal_backend(self) -> tokenizers.Tokenizer:
        # A second one, made when first needed: the switch is a property of the whole object, and
        # turning it for one text would change what other threads encode meanwhile.
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.encode_special_tokens = True
        return backend


def from_merges(vocab: Path, merges: Path, family: Family, added: Mapping[int, str]) -> tokenizers.Tokenizer:
    """The byte-level BPE of these two files, as the family splits text.

    added: the special tokens that the checkpoint's other files name; without any they follow the
    vocabulary in the family's order. The library raises bare Exception for files that it cannot read.
    """
    backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(family.pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    # The library numbers new tokens in the order in which they come.
    texts = [added[token] for token in sorted(added)] or list(family.appended)
    backend.add_special_tokens([tokenizers.AddedToken(text, normalized=False) for text in texts])
    wrong = {token: text for token, text in added.items() if backend.token_to_id(text) != token}
    if wrong:
        raise ValueError(f"its added tokens {sorted(wrong)} do not follow the vocabulary without a gap")
    return backend


def _flag_special(backend: tokenizers.Tokenizer, texts: Collection[str]) -> None:
    """Mark tokens as special that only the files beside the tokenizer's call so."""
    known = {item.content for item in backend.get_added_tokens_decoder().values() if item.special}
    missing = [text for text in sorted(set(texts) - known) if backend.token_to_id(text) is not None]
    backend.add_special_tokens(
        [tokenizers.AddedToken(text, normalized=False, special=True) for text in missing]
    )
