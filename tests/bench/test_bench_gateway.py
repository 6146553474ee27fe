"""The bench of the gateway: what its client counts, and the clock that its tokens are."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from served import ROOT

from bench.null_steps import NUM_WORDS, TICK_NS, NullSteps, age_ns, words_of
from gllm.frontend.tokenizer import Tokenizer

MODEL = "demo/model"


@pytest.fixture
def steps(tmp_path: Path) -> NullSteps:
    file = tmp_path / "step"
    file.write_bytes(bytes(8))
    return NullSteps(file, range(NUM_WORDS))


def test_a_token_tells_its_age_up_to_a_tick(steps: NullSteps) -> None:
    before = time.monotonic_ns()
    place = steps.token()
    after = time.monotonic_ns()
    for wait_ns in (0, TICK_NS, 40_000_000):
        age = age_ns(place, after + wait_ns)
        assert wait_ns <= age <= wait_ns + TICK_NS + (after - before)


def test_steps_of_a_set_time_end_by_the_clock_in_every_process_that_has_the_file(
    steps: NullSteps, tmp_path: Path
) -> None:
    other = NullSteps(tmp_path / "step", range(NUM_WORDS))
    steps.last(0.5)
    first = other.end_ns()
    assert other.end_ns() == first + 500_000_000


def test_the_words_of_the_demo_model_are_one_token_each_and_come_apart_again() -> None:
    tokenizer = Tokenizer.load(MODEL)
    words = words_of(tokenizer.pieces())
    assert len(words) == NUM_WORDS
    assert tokenizer.decode(list(words.values())) == "".join(words)
    assert [f" {word}" for word in "".join(words).split()] == list(words)


def test_a_vocabulary_with_too_few_words_is_refused_with_their_number() -> None:
    with pytest.raises(ValueError, match="1 tokens of this vocabulary are words: 300 are needed"):
        words_of([b" word", b"word", b" Word"])


def test_the_bench_counts_every_token_of_its_answers() -> None:
    options = ["--json", "--seconds", "0.5", "--only", "short", "one token, 5"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.gateway", *options],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    short, one = map(json.loads, done.stdout.splitlines())
    assert short["failed"] == one["failed"] == 0
    assert short["requests_per_s"] > 0
    assert short["tokens_per_s"] == pytest.approx(8 * short["requests_per_s"], rel=0.01)
    assert one["tokens_per_s"] == pytest.approx(one["requests_per_s"], abs=20)
    assert 0 < one["token_ms"]["p50"] <= one["first_ms"]["p99"] + 0.25
