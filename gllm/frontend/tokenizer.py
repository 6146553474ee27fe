"""Text to tokens and back, as the files of a checkpoint say.

Knows nothing of the formats of those files (tokenizer_files.py), of chats (chat.py) or of the order
in which tokens arrive (detokenizer.py).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gllm.frontend.detokenizer import Detokenizer, Pieces
from gllm.frontend.families import Family, family_of
from gllm.frontend.tokenizer_files import model_type, open_vocabulary, read_json
from gllm.frontend.vocabulary import Vocabulary
from gllm.process import StartError

TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """A vocabulary with what tokenizer_config.json says about it. Safe to use from several threads.

    special_tokens: the texts behind `bos_token`, `eos_token` and so on, as chat templates name them.
    chat_templates: the checkpoint's own, by name; the usual one is "default".
    family: what is known of the model's family; None where it is none of those.
    vocab_size: one more than the highest token id.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        config: dict[str, Any],
        chat_templates: dict[str, str],
        model_type: str = "",
    ) -> None:
        self._vocabulary = vocabulary
        self.chat_templates = chat_templates
        self.special_tokens = named_tokens(config)
        added = vocabulary.added
        self._literal = {token: item.text for token, item in added.items()}
        self._special = {item.text: token for token, item in added.items() if item.is_special}
        self.family: Family | None = family_of(model_type, self._special)
        self.vocab_size = vocabulary.num_ids
        self._bos = self._bos_rule(config.get("add_bos_token"))
        self._shown = Pieces(vocabulary.reading, self._literal, hidden=())
        self._clean = Pieces(vocabulary.reading, self._literal, set(self._special.values()))

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer in the checkpoint directory `path`; raises `StartError`."""
        root = Path(path)
        config = read_json(root / "special_tokens_map.json") | read_json(root / "tokenizer_config.json")
        templates = _templates(config.get("chat_template"))
        if (root / "chat_template.jinja").is_file():
            templates["default"] = (root / "chat_template.jinja").read_text(encoding="utf-8")
        extra = [text for item in config.get("additional_special_tokens") or [] if (text := _text(item))]
        special = {*named_tokens(config).values(), *extra}
        vocabulary = open_vocabulary(root, special, _added_tokens(root, config))
        return cls(vocabulary, config, templates, model_type(root))

    def check_fits(self, num_rows: int) -> None:
        """Raise `StartError` unless every token has one of the model's `num_rows` embedding rows."""
        if self.vocab_size > num_rows:
            raise StartError(
                f"the tokenizer knows {self.vocab_size} tokens, but the model has rows for {num_rows} only "
                f"(none for {self.id_to_token(num_rows)!r:.80}): use the tokenizer that belongs to this "
                "checkpoint"
            )

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The tokens of `text`. The text of a special token in it becomes that token.

        add_special_tokens: put the beginning-of-text token in front where the model wants one.
        """
        ids = self._vocabulary.encode(text, add_special_tokens)
        if add_special_tokens and self._bos is not None:
            bos, wanted = self._bos
            if wanted and ids[:1] != [bos]:
                return [bos, *ids]
            if not wanted and ids[:1] == [bos]:
                return ids[1:]
        return ids

    def encode_literally(self, text: str) -> list[int]:
        """The tokens of `text`, in which no special token is recognised."""
        return self._vocabulary.encode_literally(text)

    @property
    def eos_token_id(self) -> int | None:
        """The id of the end-of-text token that tokenizer_config.json names."""
        return self._special.get(self.special_tokens.get("eos_token", ""))

    @property
    def special_token_ids(self) -> frozenset[int]:
        """The ids of all special tokens."""
        return frozenset(self._special.values())

    @property
    def special_pattern(self) -> re.Pattern[str] | None:
        """Finds the special tokens that a text spells, the longest first; None where there are none."""
        return self._vocabulary.pattern

    @property
    def family_stop_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer of this family, whatever the checkpoint's files say."""
        stops = self.family.stops if self.family else ()
        return tuple(self._special[text] for text in stops if text in self._special)

    def special_id(self, text: str) -> int:
        """The id of the special token that is written `text`."""
        return self._special[text]

    def strips(self, token: int) -> tuple[bool, bool]:
        """Whether the added token `token` swallows white space on its left and on its right."""
        item = self._vocabulary.added[token]
        return item.lstrip, item.rstrip

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of `token_ids`; what is no token of this vocabulary shows nothing."""
        stream = self.detokenizer(skip_special_tokens)
        return stream.feed(token_ids) + stream.finish()

    def detokenizer(self, skip_special_tokens: bool = True, after: Sequence[int] = ()) -> Detokenizer:
        """A fresh stream of tokens to text that goes on after the tokens `after`."""
        return Detokenizer(self._clean if skip_special_tokens else self._shown, after)

    def bytes_of(self, token: int) -> bytes:
        """What one token shows within a text, special ones included."""
        return self._shown[token]

    def pieces(self) -> list[bytes]:
        """The bytes that each token id stands for in a text, none for special and unused ones."""
        return [self._clean[token] for token in range(self.vocab_size)]

    def id_to_token(self, token: int) -> str | None:
        """The vocabulary entry of `token` (not its text), None for an unused row."""
        return self._vocabulary.entry(token)

    def _bos_rule(self, wanted: Any) -> tuple[int, bool] | None:
        """The id of the beginning-of-text token and whether prompts get it; None: as the vocabulary does."""
        bos = self._special.get(self.special_tokens.get("bos_token", ""))
        if bos is None or not isinstance(wanted, bool):
            return None
        return bos, wanted


def named_tokens(config: dict[str, Any]) -> dict[str, str]:
    """The texts behind the names of `TOKEN_NAMES` in a tokenizer_config.json."""
    return {name: text for name in TOKEN_NAMES if (text := _text(config.get(name)))}


def _added_tokens(root: Path, config: dict[str, Any]) -> dict[int, str]:
    """The tokens outside the vocabulary, by id: `added_tokens_decoder`, or the older added_tokens.json."""
    older = read_json(root / "added_tokens.json")
    added = {token: text for text, token in older.items() if type(token) is int and token >= 0}
    newer = config.get("added_tokens_decoder")
    for token, item in newer.items() if isinstance(newer, dict) else ():
        text = _text(item)
        if text is None or not token.isdecimal():
            raise StartError(
                f"{root / 'tokenizer_config.json'}: added_tokens_decoder has {token!r:.80}, which is no "
                "id with a token: fetch the file again"
            )
        added[int(token)] = text
    return added


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
