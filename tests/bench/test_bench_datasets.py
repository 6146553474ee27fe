"""What is sent: filters of conversations, lengths of made-up prompts, shared prefixes."""

import json
from pathlib import Path
from typing import Any

import pytest

from gllm.bench.datasets import RandomTokens, open_tokenizer, prefix_repetition, sharegpt, sonnet, uniform
from gllm.bench.errors import BenchError
from gllm.frontend.tokenizer import Tokenizer

MODEL = Path(__file__).resolve().parent.parent.parent / "demo" / "model"
QUESTION = "What is the opposite of hot, and what colour is the sky?"
ANSWER = "Cold. The sky is blue when the sun is up."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(str(MODEL))


def conversation(*turns: str) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": turn} for turn in turns]}


def write(path: Path, items: Any) -> str:
    path.write_text(json.dumps(items))
    return str(path)


def test_conversations_are_filtered_as_in_vllm(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write(
        tmp_path / "share.json",
        [
            conversation(QUESTION, ANSWER, "more", "turns"),
            conversation(QUESTION),  # nobody answered
            conversation(),
            {"id": "no turns"},
            conversation("x", ANSWER),  # too short a question
            conversation(QUESTION, "y"),  # too short an answer
            conversation("one two " * 1100, ANSWER),  # too long a prompt
            conversation("one two " * 300, "three four " * 1100),  # too long together
        ],
    )
    (sample,) = sharegpt(path, 10, tokenizer, 0)
    assert sample.prompt == QUESTION
    assert sample.num_prompt_tokens == len(tokenizer.encode(QUESTION))
    assert sample.num_output_tokens == len(tokenizer.encode(ANSWER, add_special_tokens=False))
    forced = sharegpt(path, 10, tokenizer, 0, num_output_tokens=9)
    assert {one.num_output_tokens for one in forced} == {9}
    assert len(forced) == 3, "the answer's own length does not matter then"


def test_a_seed_decides_which_conversations_come(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "s.json", [conversation(f"{QUESTION} {n}", ANSWER) for n in range(40)])
    assert sharegpt(path, 5, tokenizer, 1) == sharegpt(path, 5, tokenizer, 1)
    assert sharegpt(path, 5, tokenizer, 1) != sharegpt(path, 5, tokenizer, 2)
    assert len(sharegpt(path, 5, tokenizer, 1)) == 5


@pytest.mark.parametrize("items", [{"a": 1}, ["text"], [{"conversations": [1, 2]}], [conversation("a")]])
def test_a_file_of_another_form_is_one_sentence(tokenizer: Tokenizer, tmp_path: Path, items: Any) -> None:
    with pytest.raises(BenchError, match=r"x\.json (is|has) no|has a conversation without"):
        sharegpt(write(tmp_path / "x.json", items), 5, tokenizer, 0)


def test_made_up_prompts_have_the_lengths_asked_and_no_special_token(tokenizer: Tokenizer) -> None:
    tokens = RandomTokens(tokenizer, 0)
    samples = uniform(50, tokens, num_input_tokens=30, num_output_tokens=5, num_prefix_tokens=8)
    assert {(one.num_prompt_tokens, len(one.prompt), one.num_output_tokens) for one in samples} == {
        (38, 38, 5)
    }
    assert len({tuple(one.prompt[:8]) for one in samples}) == 1
    assert len({tuple(one.prompt[8:]) for one in samples}) == 50
    assert not {token for one in samples for token in one.prompt} & tokenizer.special_token_ids


def test_lengths_spread_evenly_to_both_sides(tokenizer: Tokenizer) -> None:
    samples = uniform(
        2000, RandomTokens(tokenizer, 0), num_input_tokens=20, num_output_tokens=10, range_ratio=0.5
    )
    assert {one.num_prompt_tokens for one in samples} == set(range(10, 31))
    assert {one.num_output_tokens for one in samples} == set(range(5, 16))
    with pytest.raises(BenchError, match="random-range-ratio"):
        uniform(1, RandomTokens(tokenizer, 0), num_input_tokens=2, num_output_tokens=2, range_ratio=1.0)


def test_a_seed_decides_the_tokens(tokenizer: Tokenizer) -> None:
    first, again, other = (RandomTokens(tokenizer, seed).draw(64) for seed in (5, 5, 6))
    assert first == again != other


def test_prefixes_repeat_as_evenly_as_they_can(tokenizer: Tokenizer) -> None:
    samples = prefix_repetition(
        10,
        RandomTokens(tokenizer, 0),
        num_prefixes=3,
        num_prefix_tokens=12,
        num_suffix_tokens=4,
        num_output_tokens=2,
    )
    beginnings = [tuple(one.prompt[:12]) for one in samples]
    assert sorted(beginnings.count(one) for one in set(beginnings)) == [3, 3, 4]
    assert beginnings != sorted(beginnings, key=beginnings.index), "shuffled"
    assert len({tuple(one.prompt) for one in samples}) == 10
    assert {len(one.prompt) for one in samples} == {16}


def test_poems_share_their_first_lines(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "poem.txt"
    path.write_text("".join(f"The sun is line {number} of the sky\n" for number in range(100)))
    samples = sonnet(
        str(path), 20, tokenizer, 0, num_input_tokens=200, num_output_tokens=7, num_prefix_tokens=100
    )
    mean = sum(one.num_prompt_tokens for one in samples) / len(samples)
    assert mean == pytest.approx(200, rel=0.1)
    lines = [str(one.prompt).splitlines()[1:] for one in samples]
    assert lines[0][0].endswith("line 0 of the sky")
    shared = next(number for number in range(99) if len({one[number] for one in lines}) > 1)
    assert 2 <= shared < len(lines[0])


def test_a_warm_up_is_of_the_same_size_and_shares_no_prefix(tokenizer: Tokenizer) -> None:
    (sample,) = uniform(1, RandomTokens(tokenizer, 0), num_input_tokens=50, num_output_tokens=2)
    warm = sample.otherwise()
    assert sorted(warm.prompt) == sorted(sample.prompt)
    assert warm.prompt[:16] != sample.prompt[:16]
