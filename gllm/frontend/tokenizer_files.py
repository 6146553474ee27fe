"""Which of a checkpoint's files define its tokens, and what is said when they cannot be used.

Looks for tokenizer.json, then tokenizer.model, then vocab.json with merges.txt. Runs no code of the
checkpoint. Knows nothing of the formats' contents.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from gllm.frontend.decoders import UnknownDecoder
from gllm.frontend.families import Family, FileKind, family_of_file
from gllm.frontend.json_vocabulary import JsonVocabulary, from_merges
from gllm.frontend.model_vocabulary import ModelVocabulary
from gllm.frontend.sentencepiece_model import SentencePieceModel
from gllm.frontend.tiktoken_model import TiktokenModel, is_tiktoken
from gllm.frontend.vocabulary import Vocabulary
from gllm.process import StartError

LFS_POINTER = b"version https://git-lfs"


def open_vocabulary(root: Path, special: Collection[str], added: Mapping[int, str]) -> Vocabulary:
    """The tokens of the checkpoint in `root`; raises `StartError`.

    special: tokens that its other files call special. added: those that they give an id.
    """
    file = root / "tokenizer.json"
    if file.is_file():
        return _json_vocabulary(file, special)
    file = root / "tokenizer.model"
    if file.is_file():
        content = file.read_bytes()
        _refuse_pointer(file, content)
        kind = FileKind.TIKTOKEN if is_tiktoken(content) else FileKind.SENTENCEPIECE
        family = _family(root, file, kind)
        try:
            if kind is FileKind.TIKTOKEN:
                return ModelVocabulary(TiktokenModel(content, family.pattern), family, added)
            return ModelVocabulary(SentencePieceModel(content), family, added)
        except ValueError as error:
            raise StartError(f"{file} cannot be used: {error}: fetch it again") from None
    file = root / "vocab.json"
    if file.is_file() and (root / "merges.txt").is_file():
        family = _family(root, file, FileKind.MERGES)
        try:
            return JsonVocabulary(from_merges(file, root / "merges.txt", family, added), special)
        except Exception as error:  # the library raises bare Exception
            raise StartError(f"{file} and merges.txt cannot be read: {error}: fetch them again") from None
    raise StartError(
        f"{root} has no tokenizer.json, no tokenizer.model, and no vocab.json with merges.txt: take them "
        "from the model's repository"
    )


def read_json(file: Path) -> dict[str, Any]:
    """The object in `file`, an empty one if there is no such file; raises `StartError`."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StartError(f"{file} is not JSON ({error}): fetch it again") from None
    return content if isinstance(content, dict) else {}


def model_type(root: Path) -> str:
    """What config.json calls the model's type."""
    return str(read_json(root / "config.json").get("model_type", ""))


def made_from(root: Path) -> str:
    """The model that this one was made from, as its files name it: a repository or a path, or nothing."""
    names = [("tokenizer_config.json", "name_or_path"), ("config.json", "_name_or_path")]
    return " ".join(str(read_json(root / file).get(key, "")) for file, key in names)


def _json_vocabulary(file: Path, special: Collection[str]) -> JsonVocabulary:
    try:
        return JsonVocabulary(tokenizers.Tokenizer.from_file(str(file)), special)
    except UnknownDecoder as error:
        raise StartError(f"{file} cannot be used: {error}") from None
    except Exception as error:  # the library raises bare Exception
        raise StartError(f"{file} cannot be read: {error}: fetch it again") from None


def _family(root: Path, file: Path, kind: FileKind) -> Family:
    """Whose file this is: without a tokenizer.json only the family knows how text is split."""
    family = family_of_file(model_type(root), kind, made_from(root))
    if family is None:
        raise StartError(
            f"{file} cannot be used: a {kind.value} of model type {model_type(root)!r} is not known: make a "
            "tokenizer.json with transformers (AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR))"
        )
    return family


def _refuse_pointer(file: Path, content: bytes) -> None:
    if content.startswith(LFS_POINTER):
        raise StartError(
            f"{file} is a Git LFS pointer, not the file itself: run `git lfs pull` in the model's repository"
        )
