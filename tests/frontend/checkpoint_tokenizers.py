"""The tokenizer files of the families, as their checkpoints ship them without a tokenizer.json.

Qwen2's are the real ones (tests/data/qwen2). The other licences do not allow that, so small ones of
the same formats are trained here: a SentencePiece model for llama2, chatglm2 and chatglm3, and a
byte-level BPE in tiktoken's form for llama3 and glm4. They stand for formats and rules, not for token counts.
"""

# ruff: noqa: RUF001

import base64
import gzip
import io
import json
import re
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import sentencepiece

DATA = Path(__file__).resolve().parents[1] / "data" / "qwen2"
MODEL_TYPES = {
    "llama2": "llama",
    "llama3": "llama",
    "qwen2": "qwen2",
    "chatglm2": "chatglm",
    "chatglm3": "chatglm",
    "glm4": "chatglm",
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama2": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    "chatglm2": {"name_or_path": "THUDM/chatglm2-6b", "eos_token": "</s>"},
    "chatglm3": {"name_or_path": "THUDM/chatglm3-6b-base", "eos_token": "</s>"},
    "glm4": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
}
NUM_PIECES = 500
TEXT = """The quick brown fox jumps over the lazy dog, and nobody's hurt: they're all well in 2024.
To be, or not to be: that is the question. 123 4567 89.  Two spaces,   three.	A tab.
def main(argv: list[str]) -> int:
    return sum(len(word) for word in argv)
人人生而自由，在尊严和权利上一律平等。 他们赋有理性和良心。 你好，世界！
Все люди рождаются свободными и равными. ご飯を食べました。 naïve café, ça va?
"""


def write(root: Path, family: str, **config: Any) -> Path:
    """The files of `family` in the new directory `root`; `config` changes its tokenizer_config.json."""
    root.mkdir()
    (root / "config.json").write_text(json.dumps({"model_type": MODEL_TYPES[family]}))
    if family == "qwen2":
        for name in ("vocab.json", "merges.txt"):
            (root / name).write_bytes(gzip.decompress((DATA / f"{name}.gz").read_bytes()))
        settings = json.loads((DATA / "tokenizer_config.json").read_text())
    else:
        is_tiktoken = family in ("llama3", "glm4")
        (root / "tokenizer.model").write_bytes(tiktoken_file() if is_tiktoken else sentencepiece_file())
        settings = CONFIGS[family]
    (root / "tokenizer_config.json").write_text(json.dumps(settings | config))
    return root


@cache
def sentencepiece_file() -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=out,
        model_type="bpe",
        vocab_size=NUM_PIECES,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return out.getvalue()


def byte_ranks() -> dict[bytes, int]:
    """Byte-level BPE by the book: the most frequent pair is merged, again and again."""
    counts = Counter(re.findall(r" ?\w+| ?[^\s\w]+|\s+", TEXT))
    words = {word: [bytes([byte]) for byte in word.encode()] for word in counts}
    ranks = {bytes([byte]): byte for byte in range(256)}
    while len(ranks) < NUM_PIECES:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, parts in words.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        ranks[b"".join(best)] = len(ranks)
        words = {word: _merged(parts, best) for word, parts in words.items()}
    return ranks


@cache
def tiktoken_file() -> bytes:
    return b"".join(base64.b64encode(piece) + b" %d\n" % rank for piece, rank in byte_ranks().items())


def _merged(parts: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    merged: list[bytes] = []
    for part in parts:
        # A piece that has just been made of the pair takes no part in the next one.
        if merged and (merged[-1], part) == pair and pair[0] != b"".join(pair):
            merged[-1] += part
        else:
            merged.append(part)
    return merged
