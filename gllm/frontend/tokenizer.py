"""Text to tokens and back, from the files beside a checkpoint's weights.

Reads tokenizer.json with the `tokenizers` library and runs no code of the checkpoint. Knows
nothing of chats (chat.py) or of the order in which tokens arrive (detokenizer.py).
"""

import json
import re
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from gllm.frontend.detokenizer import Detokenizer, Pieces, UnknownDecoder
from gllm.process import StartError

TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """A tokenizer.json with what tokenizer_config.json says about it. Safe to use from several threads.

    special_tokens: the texts behind `bos_token`, `eos_token` and so on, as chat templates name them.
    chat_templates: the checkpoint's own, by name; the usual one is "default".
    vocab_size: one more than the highest token id.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, config: dict[str, Any], chat_templates: dict[str, str]
    ) -> None:
        backend.no_truncation()  # what was set for training must not cut a prompt
        backend.no_padding()
        self._backend = backend
        self.chat_templates = chat_templates
        self.special_tokens = {name: text for name in TOKEN_NAMES if (text := _text(config.get(name)))}
        extra = [text for item in config.get("additional_special_tokens") or [] if (text := _text(item))]
        _flag_special(backend, {*self.special_tokens.values(), *extra})
        added = backend.get_added_tokens_decoder()
        self._literal = {token: item.content for token, item in added.items()}
        self._special = {item.content: token for token, item in added.items() if item.special}
        self._sides = {token: (item.lstrip, item.rstrip) for token, item in added.items()}
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self._bos = self._bos_rule(config.get("add_bos_token"))
        decoder = json.loads(backend.to_str())["decoder"]
        self._shown = Pieces(decoder, backend.id_to_token, self._literal, hidden=())
        self._clean = Pieces(decoder, backend.id_to_token, self._literal, set(self._special.values()))
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer in the checkpoint directory `path`; raises `StartError`."""
        root = Path(path)
        file = root / "tokenizer.json"
        if not file.is_file():
            raise StartError(
                f"{root} has no tokenizer.json: take it from the model's repository, or make it with "
                "transformers (AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR))"
            )
        config = _read_json(root / "special_tokens_map.json") | _read_json(root / "tokenizer_config.json")
        templates = _templates(config.get("chat_template"))
        if (root / "chat_template.jinja").is_file():
            templates["default"] = (root / "chat_template.jinja").read_text(encoding="utf-8")
        try:
            return cls(tokenizers.Tokenizer.from_file(str(file)), config, templates)
        except UnknownDecoder as error:
            raise StartError(f"{file} cannot be used: {error}") from None
        except Exception as error:  # the library raises bare Exception
            raise StartError(f"{file} cannot be read: {error}: fetch it again") from None

    def check_fits(self, num_rows: int) -> None:
        """Raise `StartError` unless every token has one of the model's `num_rows` embedding rows."""
        if self.vocab_size > num_rows:
            raise StartError(
                f"the tokenizer knows {self.vocab_size} tokens, but the model has rows for {num_rows} only: "
                "use the tokenizer that belongs to this checkpoint"
            )

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The tokens of `text`. The text of a special token in it becomes that token.

        add_special_tokens: put the beginning-of-text token in front where the model wants one.
        """
        # The batch form leaves out the character offsets, which nobody reads.
        ids: list[int] = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        if add_special_tokens and self._bos is not None:
            bos, wanted = self._bos
            if wanted and ids[:1] != [bos]:
                return [bos, *ids]
            if not wanted and ids[:1] == [bos]:
                return ids[1:]
        return ids

    def encode_literally(self, text: str) -> list[int]:
        """The tokens of `text`, in which no special token is recognised."""
        with self._lock:
            backend = self._literal_backend
        ids: list[int] = backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    @property
    def eos_token_id(self) -> int | None:
        """The id of the end-of-text token that tokenizer_config.json names."""
        return self._special.get(self.special_tokens.get("eos_token", ""))

    @property
    def special_token_ids(self) -> frozenset[int]:
        """The ids of all special tokens."""
        return frozenset(self._special.values())

    @cached_property
    def special_pattern(self) -> re.Pattern[str] | None:
        """Finds the texts of special tokens, the longest first; None where there are none."""
        if not self._special:
            return None
        return re.compile(_any_of(list(self._special)))

    def special_id(self, text: str) -> int:
        """The id of the special token that is written `text`."""
        return self._special[text]

    def strips(self, token: int) -> tuple[bool, bool]:
        """Whether the added token `token` swallows white space on its left and on its right."""
        return self._sides[token]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of `token_ids`; what is no token of this vocabulary shows nothing."""
        stream = self.detokenizer(skip_special_tokens)
        return stream.feed(token_ids) + stream.finish()

    def detokenizer(self, skip_special_tokens: bool = True, after: Sequence[int] = ()) -> Detokenizer:
        """A fresh stream of tokens to text that goes on after the tokens `after`."""
        return Detokenizer(self._clean if skip_special_tokens else self._shown, after)

    def id_to_token(self, token: int) -> str | None:
        """The vocabulary entry of `token` (not its text), None for an unused row."""
        entry: str | None = self._backend.id_to_token(token)
        return entry

    @cached_property
    def _literal_backend(self) -> tokenizers.Tokenizer:
        # A second one, made when first needed: the switch is a property of the whole object, and
        # turning it for one text would change what other threads encode meanwhile.
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        backend.encode_special_tokens = True
        return backend

    def _bos_rule(self, wanted: Any) -> tuple[int, bool] | None:
        """The id of the beginning-of-text token and whether prompts get it; None: as tokenizer.json says."""
        bos = self._backend.token_to_id(self.special_tokens.get("bos_token", ""))
        if bos is None or not isinstance(wanted, bool):
            return None
        return bos, wanted


def _flag_special(backend: tokenizers.Tokenizer, texts: set[str]) -> None:
    """Mark tokens as special that only tokenizer_config.json calls so."""
    known = {item.content for item in backend.get_added_tokens_decoder().values() if item.special}
    missing = [text for text in sorted(texts - known) if backend.token_to_id(text) is not None]
    backend.add_special_tokens(
        [tokenizers.AddedToken(text, normalized=False, special=True) for text in missing]
    )


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StartError(f"{file} is not JSON ({error}): fetch it again") from None
    return content if isinstance(content, dict) else {}


def _text(token: Any) -> str | None:
    """A token as tokenizer_config.json writes it: its text, or an object with its text as content."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _templates(given: Any) -> dict[str, str]:
    """`chat_template`: one text, or a list of named ones."""
    if isinstance(given, str):
        return {"default": given}
    named = given if isinstance(given, list) else []
    return {item["name"]: item["template"] for item in named if {"name", "template"} <= item.keys()}


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
