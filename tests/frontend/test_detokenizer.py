"""Tokens to text: never half a character, and in sum exactly the text of all tokens."""

from itertools import pairwise
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizers import byte_fallback_backend, byte_level_backend, made
from tokenizers import decoders

from gllm.frontend.decoders import UnknownDecoder, json_reading
from gllm.frontend.detokenizer import REPLACEMENT, Detokenizer
from gllm.frontend.tokenizer import Tokenizer

BYTE_LEVEL = made(byte_level_backend(), {}, {})
FALLBACK = made(byte_fallback_backend(), {}, {})
KINDS = pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, FALLBACK], ids=["byte-level", "byte-fallback"])


def backend_of(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    return tokenizer._vocabulary.backend


def token_ids(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    # A few ids beyond the vocabulary: rows of the model that no token has.
    return st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=40)


def streamed(tokenizer: Tokenizer, ids: list[int], cuts: list[int], **options: Any) -> list[str]:
    """The deltas of `ids`, cut into commits at `cuts`."""
    stream = tokenizer.detokenizer(**options)
    borders = [0, *sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
    deltas = [stream.feed(ids[a:b]) for a, b in pairwise(borders)]
    return [*deltas, stream.finish()]


def whole_runs(ids: list[int]) -> bool:
    """Whether each run of byte tokens of the fallback vocabulary is wholly right or wholly broken.

    In a mixed run Hugging Face shows every byte as broken, which a stream cannot know in time; we
    show the characters that are whole, as SentencePiece does.
    """
    run: list[int] = []
    for token in [*ids, 259]:
        if 3 <= token < 259:
            run.append(token - 3)
        elif 259 <= token < FALLBACK.vocab_size:  # the others show nothing, and do not end a run
            text = bytes(run).decode(errors="replace")
            if REPLACEMENT in text and text.strip(REPLACEMENT):
                return False
            run = []
    return True


@given(ids=token_ids(BYTE_LEVEL), cuts=st.lists(st.integers(0, 40), max_size=10), skip=st.booleans())
def test_byte_level_deltas_join_to_the_librarys_text(ids: list[int], cuts: list[int], skip: bool) -> None:
    deltas = streamed(BYTE_LEVEL, ids, cuts, skip_special_tokens=skip)
    known = [token for token in ids if token < BYTE_LEVEL.vocab_size]
    assert "".join(deltas) == backend_of(BYTE_LEVEL).decode(known, skip_special_tokens=skip)


@given(ids=token_ids(FALLBACK).filter(whole_runs), cuts=st.lists(st.integers(0, 40), max_size=10))
def test_byte_fallback_deltas_join_to_the_librarys_text(ids: list[int], cuts: list[int]) -> None:
    known = [token for token in ids if token < FALLBACK.vocab_size]
    assert "".join(streamed(FALLBACK, ids, cuts)) == backend_of(FALLBACK).decode(known)


@KINDS
@given(data=st.data())
def test_the_cuts_do_not_change_the_text(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(token_ids(tokenizer))
    one_by_one = streamed(tokenizer, ids, list(range(len(ids))))
    assert "".join(one_by_one) == tokenizer.decode(ids)


@KINDS
@given(text=st.text())
def test_text_comes_back_whole_and_never_in_half_characters(tokenizer: Tokenizer, text: str) -> None:
    text = text.replace(REPLACEMENT, "")
    ids = [token for token in tokenizer.encode(text) if tokenizer.id_to_token(token) != "<unk>"]
    deltas = streamed(tokenizer, ids, list(range(len(ids))))
    assert all(REPLACEMENT not in delta for delta in deltas)
    expected = text if tokenizer is BYTE_LEVEL else text.replace("▁", " ")
    assert "".join(deltas) == expected


@given(prompt=st.text(max_size=20), answer=st.text(max_size=20), cut=st.integers(0, 30))
def test_an_answer_goes_on_where_the_prompt_ended(prompt: str, answer: str, cut: int) -> None:
    """Even if that is in the middle of a character, or before a leading space."""
    for tokenizer in (BYTE_LEVEL, FALLBACK):
        ids = tokenizer.encode(prompt + answer)
        cut = min(cut, len(ids))
        before = "".join(streamed(tokenizer, ids[:cut], [])).rstrip(REPLACEMENT)
        after = "".join(streamed(tokenizer, ids[cut:], [], after=ids[:cut]))
        assert (before + after).replace(REPLACEMENT, "") == tokenizer.decode(ids).replace(REPLACEMENT, "")


def test_a_leading_space_is_dropped_only_at_the_beginning_of_a_text() -> None:
    hello = FALLBACK.encode("hello")
    assert [FALLBACK.id_to_token(token) for token in hello] == ["▁hello"]
    assert FALLBACK.decode(hello) == "hello"
    assert FALLBACK.decode(hello * 2) == "hello hello"
    assert FALLBACK.detokenizer(after=hello).feed(hello) == " hello"
    only_bos = [FALLBACK.special_id("<s>")]
    assert FALLBACK.detokenizer(after=only_bos).feed(hello) == "hello"


def test_broken_bytes_are_shown_as_soon_as_it_is_certain() -> None:
    stream = BYTE_LEVEL.detokenizer()
    broken = BYTE_LEVEL._vocabulary.backend.token_to_id("ÿ")
    assert stream.feed([broken]) == REPLACEMENT
    first_of_euro = BYTE_LEVEL._vocabulary.backend.token_to_id("â")
    assert stream.feed([first_of_euro]) == ""
    assert stream.finish() == REPLACEMENT


def test_mixed_runs_of_bytes_keep_their_whole_characters() -> None:
    zhong_and_ff = [3 + byte for byte in (0xE4, 0xB8, 0xAD, 0xFF)]
    assert FALLBACK.decode(zhong_and_ff) == "中" + REPLACEMENT


def test_what_is_kept_does_not_grow_with_the_stream() -> None:
    stream = BYTE_LEVEL.detokenizer()
    for token in [BYTE_LEVEL._vocabulary.backend.token_to_id("â")] * 1000:
        stream.feed([token])
        assert len(stream._pending) <= 3


@pytest.mark.parametrize(
    "decoder",
    [None, {"type": "WordPiece"}, {"type": "Strip", "content": " ", "start": 0, "stop": 1}],
)
def test_an_unknown_decoder_is_refused(decoder: Any) -> None:
    with pytest.raises(UnknownDecoder, match="decoder"):
        json_reading(decoder, {}.get)


def test_a_metaspace_decoder_drops_the_first_space_as_the_library_does() -> None:
    backend = byte_fallback_backend()
    for scheme, expected in (("always", "hello hello"), ("never", " hello hello")):
        backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
        tokenizer = made(backend, {}, {})
        ids = tokenizer.encode("hello hello")
        assert tokenizer.decode(ids) == backend.decode(ids) == expected


def test_a_fresh_detokenizer_shows_nothing() -> None:
    stream = Detokenizer(BYTE_LEVEL._clean)
    assert stream.feed([]) == stream.finish() == ""
