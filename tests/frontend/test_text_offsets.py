"""The offsets of tokens point to where the shown text begins, whatever is hidden before."""

import pytest
from tiny_tokenizers import byte_fallback_backend, byte_level_backend, made

from gllm.frontend.detokenizer import REPLACEMENT
from gllm.frontend.text_offsets import TextOffsets, offsets_in_prompt
from gllm.frontend.tokenizer import Tokenizer

BYTE_LEVEL = made(byte_level_backend(), {}, {})
FALLBACK = made(byte_fallback_backend(), {}, {})
TEXT = "hello wo 中 😀 d"


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, FALLBACK], ids=["byte-level", "byte-fallback"])
def test_a_prompts_tokens_begin_where_its_text_has_them(tokenizer: Tokenizer) -> None:
    hidden = min(tokenizer.special_token_ids)
    ids = [hidden, *tokenizer.encode(TEXT)]
    offsets = offsets_in_prompt(TEXT, ids, tokenizer)
    assert offsets[:2] == [0, 0]
    for place, (token, offset) in enumerate(zip(ids[1:], offsets[1:], strict=True)):
        shown = tokenizer.bytes_of(token).decode(errors="replace")
        if REPLACEMENT in shown:
            assert TEXT[offset] in " 中😀"
        else:  # some tokenizers put a space before a text, which is not shown
            assert TEXT.startswith(shown if place else shown.lstrip(), offset)


def test_a_special_token_that_the_prompt_spells_is_part_of_its_text() -> None:
    text = "hello<|im_end|>you"
    ids = BYTE_LEVEL.encode(text)
    offsets = offsets_in_prompt(text, ids, BYTE_LEVEL)
    spelt = offsets[ids.index(BYTE_LEVEL.special_id("<|im_end|>")) :][:2]
    assert spelt == [text.index("<"), text.index("you")]


def test_an_outputs_offsets_go_on_behind_the_prompt_however_it_is_cut() -> None:
    prompt = BYTE_LEVEL.encode("hello")
    output = [*BYTE_LEVEL.encode(" 😀!"), BYTE_LEVEL.special_id("<|im_end|>"), *BYTE_LEVEL.encode("you")]
    told = offsets_in_prompt("hello", prompt, BYTE_LEVEL)

    def offsets() -> TextOffsets:
        return TextOffsets(BYTE_LEVEL.detokenizer(after=prompt), told, len("hello"))

    whole = offsets().of([*prompt, *output])
    assert whole[: len(prompt) + 1] == [*told, 5]
    assert whole[-len(BYTE_LEVEL.encode("you"))] == len("hello 😀!")
    for cut in range(len(output)):
        streamed = offsets()
        assert [*streamed.of([*prompt, *output[:cut]]), *streamed.of(output[cut:])] == whole
