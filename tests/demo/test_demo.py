"""The demo model's promises: a small loadable checkpoint, a clean held-out split, right sums, ended turns."""

from __future__ import annotations

import json
import re
from itertools import islice

import jinja2
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from demo import corpus, evaluate, tokenizer
from demo.evaluate import answer_all, is_right, load, measure
from demo.skills_numbers import sum_key
from demo.skills_spelling import word_key
from demo.turn import held_out

MODEL = evaluate.MODEL_FOLDER


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@pytest.fixture(scope="module")
def loaded():
    """Model and tokenizer, on one thread: steps this small lose more than they gain by a second one."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load(MODEL)
    torch.set_num_threads(num_threads)


def test_the_checkpoint_is_complete_and_under_10_megabytes():
    names = {path.name for path in MODEL.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert {"tokenizer_config.json", "README.md"} <= names
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 10_000_000


def test_the_config_is_a_plain_llama_whose_turn_ends_with_im_end(bpe):
    config = json.loads((MODEL / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["torch_dtype"] == "bfloat16"
    assert config["max_position_embeddings"] >= 1024
    assert config["vocab_size"] == bpe.get_vocab_size()
    assert bpe.id_to_token(config["eos_token_id"]) == "<|im_end|>"
    assert (
        config["eos_token_id"] in json.loads((MODEL / "generation_config.json").read_text())["eos_token_id"]
    )


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_survives_the_tokenizer(text):
    bpe = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    specials = (tokenizer.END_OF_TEXT, tokenizer.TURN_START, tokenizer.TURN_END)
    if not any(special in text for special in specials):
        assert bpe.decode(bpe.encode(text).ids) == text


def test_every_digit_is_a_token(bpe):
    assert bpe.encode("2048+96=").tokens == [*"2048", "+", *"96", "="]


@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_the_chat_template_renders_what_training_used(add_generation_prompt):
    settings_ = json.loads((MODEL / "tokenizer_config.json").read_text())
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(settings_["chat_template"])
    for dialogue in islice(corpus.training_dialogues(3, num_chars=300), 20):
        expected = corpus.render(dialogue, add_generation_prompt=add_generation_prompt)
        assert template.render(messages=dialogue, add_generation_prompt=add_generation_prompt) == expected


def test_the_corpus_depends_on_the_seed_alone():
    def first(seed: int) -> list[list[corpus.Message]]:
        return list(islice(corpus.training_dialogues(seed, num_chars=400), 30))

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_held_out_questions_never_appear_in_training():
    num_sums = num_spellings = 0
    for dialogue in islice(corpus.training_dialogues(7, num_chars=1500), 600):
        for message in dialogue:
            if message["role"] != "assistant":
                continue
            text = message["content"]
            for a, b, total in re.findall(r"(\d+) \+ (\d+) = (\d+)", text):
                num_sums += 1
                assert int(a) + int(b) == int(total)
                assert not held_out(sum_key(int(a), int(b))), text
            for a, b, rest in re.findall(r"(\d+) - (\d+) = (-?\d+)", text):
                assert int(a) - int(b) == int(rest)
                assert not held_out(f"difference {a} {b}"), text
            for dashed in re.findall(r"^([a-z](?:-[a-z])+)|is spelled ([a-z](?:-[a-z])+)", text):
                num_spellings += 1
                assert not held_out(word_key("".join(dashed).replace("-", ""))), text
    assert num_sums > 3000
    assert num_spellings > 1000


def test_every_question_of_the_table_is_held_out():
    for skill in evaluate.SKILLS:
        if skill == "name from the system message":
            continue  # the name is new to the dialogue, its key is not part of the split
        for _, turn in corpus.held_out_questions(skill, number=5, seed=11):
            assert held_out(turn.key), (skill, turn)


def test_labels_cover_the_answers_and_their_ends_and_nothing_else(bpe):
    dialogue = [
        corpus.message("system", "You are Pip."),
        corpus.message("user", "2+2"),
        corpus.message("assistant", "2 + 2 = 4."),
        corpus.message("user", "thanks"),
        corpus.message("assistant", "You are welcome!"),
    ]
    ids, labels = tokenizer.encode_dialogues(bpe, [dialogue], length=128)
    learned = bpe.decode(labels[labels != tokenizer.IGNORED].tolist(), skip_special_tokens=False)
    assert learned == "2 + 2 = 4.<|im_end|>You are welcome!<|im_end|>"
    assert (ids[labels != tokenizer.IGNORED] == labels[labels != tokenizer.IGNORED]).all()


def test_held_out_two_digit_sums_are_right_and_end_their_turn(loaded):
    row = measure(*loaded, "two-digit sums", number=60, seed=5)
    assert row.num_ended == 60
    assert row.accuracy >= 0.9, row.wrong


def test_a_mixed_sample_of_skills_is_mostly_right(loaded):
    questions = [
        question
        for skill in ("spelling", "differences up to 99", "opposites", "remembered facts", "small talk")
        for question in corpus.held_out_questions(skill, number=8, seed=4)
    ]
    answers = answer_all(*loaded, [messages for messages, _ in questions])
    num_right = sum(
        is_right(answer, turn.expect) for answer, (_, turn) in zip(answers, questions, strict=True)
    )
    assert num_right >= 0.85 * len(questions)


def test_it_follows_a_chat_of_several_turns(loaded):
    def chat(*texts: str) -> list[corpus.Message]:
        return [corpus.message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]

    answers = answer_all(
        *loaded,
        [
            chat("What is 12 + 30?", "12 + 30 = 42.", "and plus 3?"),
            chat("My name is Christopher.", "Nice to meet you, Christopher!", "what is my name?"),
            [corpus.message("system", "You are Max."), *chat("Who are you?")],
            chat("What is the capital of France?"),
            chat("Tell me a story about a dragon."),
        ],
    )
    assert all(answer.ended for answer in answers)
    for answer, expect in zip(answers, ("= 45", "Christopher", "Max", "do not know", "dragon"), strict=True):
        assert expect in answer.text
    assert answers[-1].num_tokens >= 60
