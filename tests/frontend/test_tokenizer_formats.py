"""Each file format against the library that defines it, on a thousand texts of all kinds."""

import gzip
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from checkpoint_tokenizers import DATA, MODEL_TYPES, byte_ranks, sentencepiece_file, tiktoken_file, write
from many_texts import many_texts
from sentencepiece import SentencePieceProcessor

from gllm.frontend.families import FAMILIES
from gllm.frontend.tokenizer import Tokenizer
from gllm.process import StartError

TEXTS = many_texts()
GLM_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
PREFIXES = {"llama3": ["<|begin_of_text|>"], "glm4": ["[gMASK]", "<sop>"]}
EVERY_FAMILY = pytest.mark.parametrize("family", MODEL_TYPES)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tokenizer]:
    root = tmp_path_factory.mktemp("formats")
    loaded: dict[str, Tokenizer] = {}

    def one(family: str) -> Tokenizer:
        if family not in loaded:
            loaded[family] = Tokenizer.load(write(root / family, family))
        return loaded[family]

    return one


def appended(family: str) -> tuple[str, ...]:
    return next(row.appended for row in FAMILIES if row.name == family)


@pytest.mark.parametrize("family", ["llama3", "glm4"])
def test_tiktoken_ids_are_the_librarys(load: Callable[[str], Tokenizer], family: str) -> None:
    ranks = byte_ranks()
    specials = {text: len(ranks) + place for place, text in enumerate(appended(family))}
    oracle = tiktoken.Encoding("oracle", pat_str=GLM_PATTERN, mergeable_ranks=ranks, special_tokens=specials)
    tokenizer = load(family)
    prefix = [
        specials[text] for text in {"llama3": ["<|begin_of_text|>"], "glm4": ["[gMASK]", "<sop>"]}[family]
    ]
    for text in TEXTS:
        with_special = oracle.encode(text, allowed_special="all")
        assert tokenizer.encode(text, add_special_tokens=False) == with_special, repr(text)
        assert tokenizer.encode_literally(text) == oracle.encode(text, disallowed_special=()), repr(text)
        begins = with_special[: len(prefix)] == prefix
        assert tokenizer.encode(text) == ([] if begins else prefix) + with_special, repr(text)
        assert tokenizer.decode(with_special, skip_special_tokens=False) == text
    assert tokenizer.vocab_size == oracle.n_vocab


@pytest.mark.parametrize(("family", "prefix"), [("llama2", ["<s>"]), ("chatglm3", ["[gMASK]", "sop"])])
def test_sentencepiece_ids_are_the_librarys(
    load: Callable[[str], Tokenizer], family: str, prefix: list[str]
) -> None:
    oracle = SentencePieceProcessor(model_proto=sentencepiece_file())
    tokenizer = load(family)
    specials = {"<unk>": 0, "<s>": 1, "</s>": 2}
    if family == "chatglm3":
        specials = {text: oracle.vocab_size() + place for place, text in enumerate(appended(family))}
    # "sop" is a word that people write; it is a token only where the prompt's beginning is spelled out.
    spelled = re.compile(
        r"<unk>|</?s>"
        if family == "llama2"
        else r"\[[gs]?MASK\]|(?<=\[gMASK\])(?:sop|eop)|<\|(?:system|user|assistant|observation)\|>"
    )
    for text in TEXTS:
        assert tokenizer.encode_literally(text) == oracle.encode(text), repr(text)
        expected, end = [], 0
        for match in spelled.finditer(text):
            expected += [*oracle.encode(text[end : match.start()]), specials[match[0]]]
            end = match.end()
        expected += oracle.encode(text[end:])
        assert tokenizer.encode(text, add_special_tokens=False) == expected, repr(text)
        ids = [specials[name] for name in prefix]
        begins = expected[: len(ids)] == ids
        assert tokenizer.encode(text) == ([] if begins else ids) + expected, repr(text)
        plain = oracle.encode(text)
        assert tokenizer.decode(plain) == oracle.decode(plain), repr(text)


def test_the_pieces_of_any_ids_are_joined_as_sentencepiece_joins_them(
    load: Callable[[str], Tokenizer],
) -> None:
    """Bytes that make no character, too: what a model may well generate."""
    oracle = SentencePieceProcessor(model_proto=sentencepiece_file())
    tokenizer = load("chatglm3")
    draw = random.Random(7)
    for _ in range(1000):
        ids = [draw.randrange(3, draw.choice([259, oracle.vocab_size()])) for _ in range(draw.randint(1, 20))]
        if tokenizer.id_to_token(ids[0]) == "<0x20>":
            continue  # a first space is cut even if it comes as a byte, which no encoder writes
        assert tokenizer.decode(ids) == oracle.decode(ids), ids


def test_qwen2_ids_are_those_of_transformers(load: Callable[[str], Tokenizer], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = load("qwen2")
    oracle: Any = AutoTokenizer.from_pretrained(write(tmp_path / "qwen2", "qwen2"))
    assert tokenizer.vocab_size == len(oracle) == 151646
    for text in TEXTS:
        ids = oracle(text).input_ids
        assert tokenizer.encode(text) == ids, repr(text)
        assert tokenizer.decode(ids, skip_special_tokens=False) == oracle.decode(ids), repr(text)
    known = "<|im_start|>user\nHello, 你好 world 12345!<|im_end|>\n"
    assert tokenizer.encode(known) == [
        151644, 872, 198, 9707, 11, 220, 108386, 1879, 220, 16, 17, 18, 19, 20, 0, 151645, 198
    ]  # fmt: skip


@EVERY_FAMILY
def test_streamed_text_is_the_whole_text(load: Callable[[str], Tokenizer], family: str) -> None:
    """Token by token, with special tokens shown or hidden, and never half a character."""
    tokenizer = load(family)
    for text in TEXTS:
        ids = tokenizer.encode_literally(text)
        for skip in (True, False):
            stream = tokenizer.detokenizer(skip)
            deltas = [stream.feed([token]) for token in ids] + [stream.finish()]
            assert "".join(deltas) == tokenizer.decode(ids, skip), repr(text)
            assert "\ufffd" in text or not any("\ufffd" in delta for delta in deltas), repr(text)


@EVERY_FAMILY
def test_users_text_comes_back_as_it_was(load: Callable[[str], Tokenizer], family: str) -> None:
    import unicodedata

    tokenizer = load(family)
    for text in TEXTS:
        back = tokenizer.decode(tokenizer.encode_literally(text))
        match family:
            case "qwen2":
                assert back == unicodedata.normalize("NFC", text)
            case "llama2" | "chatglm2" | "chatglm3":
                assert back == text.replace("▁", " ")
            case _:
                assert back == text


def test_a_character_of_many_tokens_appears_when_it_is_whole(load: Callable[[str], Tokenizer]) -> None:
    for family in ("llama2", "llama3", "glm4", "chatglm3"):
        tokenizer = load(family)
        ids = tokenizer.encode_literally("a龘")
        stream = tokenizer.detokenizer()
        assert len(ids) >= 4, family
        assert [delta for token in ids if (delta := stream.feed([token]))] == ["a", "龘"], family


def test_white_space_without_end_does_not_stop_tiktoken(load: Callable[[str], Tokenizer]) -> None:
    """The library panics, which is no exception that anybody catches, on a million spaces."""
    tokenizer = load("glm4")
    for text in (" " * 1_000_000, "a" + "\n" * 300_000 + " \t" * 300_000 + "b"):
        assert tokenizer.decode(tokenizer.encode_literally(text)) == text


def test_ids_in_the_files_count_more_than_the_familys_order(tmp_path: Path) -> None:
    num_pieces = SentencePieceProcessor(model_proto=sentencepiece_file()).vocab_size()
    moved = {str(num_pieces + 20): {"content": "<|user|>", "special": False}}
    tokenizer = Tokenizer.load(write(tmp_path / "a", "chatglm3", added_tokens_decoder=moved))
    assert tokenizer.special_id("<|user|>") == num_pieces + 20
    assert tokenizer.vocab_size == num_pieces + 21
    assert tokenizer.family is not None
    root = write(tmp_path / "b", "llama2")
    (root / "added_tokens.json").write_text(json.dumps({"<pad>": num_pieces}))
    tokenizer = Tokenizer.load(root)
    assert tokenizer.encode("<pad>", add_special_tokens=False) == [num_pieces]
    with pytest.raises(StartError, match=f"knows {num_pieces + 1} tokens, .*none for '<pad>'"):
        tokenizer.check_fits(num_pieces)


def test_a_prompt_gets_no_beginning_where_the_config_says_so(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path / "a", "llama2", add_bos_token=False))
    assert tokenizer.encode("hello") == tokenizer.encode_literally("hello")


BROKEN: list[tuple[str, str, Callable[[], bytes], str]] = [
    ("llama2", "tokenizer.model", lambda: b"", "no SentencePiece model"),
    ("llama2", "tokenizer.model", lambda: b"garbage", "no SentencePiece model"),
    ("chatglm3", "tokenizer.model", lambda: sentencepiece_file()[:3000], "no SentencePiece model"),
    ("llama2", "tokenizer.model", lambda: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ("llama3", "tokenizer.model", lambda: tiktoken_file()[:-6] + b"\n", r"line 500 is not a piece"),
    ("llama3", "tokenizer.model", lambda: tiktoken_file() + b"!!!! 500\n", r"line 501 is not a piece"),
    ("glm4", "tokenizer.model", lambda: tiktoken_file() + b"aGVs 9000\n", "ranks are not the numbers"),
    ("glm4", "tokenizer.model", lambda: tiktoken_file() * 2, "line 501 repeats"),
    ("glm4", "tokenizer.model", lambda: b"aGVs 0\n", "256 single bytes"),
    ("qwen2", "tokenizer.model", tiktoken_file, "of model type 'qwen2' is not known"),
    ("qwen2", "merges.txt", lambda: b"a b c d\n", r"merges\.txt cannot be read"),
    ("qwen2", "vocab.json", lambda: b"{", r"vocab\.json and merges\.txt cannot be read"),
]


@pytest.mark.parametrize(("family", "name", "content", "sentence"), BROKEN)
def test_a_broken_file_is_named_with_what_is_wrong(
    tmp_path: Path, family: str, name: str, content: Callable[[], bytes], sentence: str
) -> None:
    root = write(tmp_path / "model", family)
    (root / name).write_bytes(content())
    with pytest.raises(StartError, match=sentence) as caught:
        Tokenizer.load(root)
    assert str(root / name).removesuffix("merges.txt") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_family_that_nobody_knows_is_refused_rather_than_split_wrongly(tmp_path: Path) -> None:
    root = write(tmp_path / "model", "llama3")
    (root / "config.json").write_text('{"model_type": "mystery"}')
    with pytest.raises(StartError, match=r"tiktoken tokenizer\.model of model type 'mystery' is not known"):
        Tokenizer.load(root)


def test_the_data_of_this_folder_says_where_it_is_from() -> None:
    assert "Apache License" in (DATA / "LICENSE").read_text()
    assert "Source:" in (DATA / "README.md").read_text()
    assert len(json.loads(gzip.decompress((DATA / "vocab.json.gz").read_bytes()))) == 151643
