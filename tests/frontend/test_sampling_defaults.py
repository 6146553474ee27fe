"""generation_config.json speaks where a request is silent, and nowhere else."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import Deployment, serving

from gllm.frontend.defaults import sampling_defaults
from gllm.frontend.tokenizer import Tokenizer
from gllm.process import StartError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"eos_token_id": [1, 2], "transformers_version": "4.40"}, {}),
        ({"temperature": 0.6, "top_p": 0.9, "do_sample": True}, {"temperature": 0.6, "top_p": 0.9}),
        ({"top_k": 20, "max_new_tokens": 77, "top_p": None}, {"top_k": 20, "max_tokens": 77}),
        ({"do_sample": False}, {"temperature": 0.0}),
        ({"repetition_penalty": 1.05, "min_p": 0.1}, {"repetition_penalty": 1.05, "min_p": 0.1}),
        (
            {"do_sample": False, "temperature": 0.6, "top_k": 5, "max_new_tokens": 7},
            {"temperature": 0.0, "max_tokens": 7},
        ),
    ],
)
def test_the_names_of_the_file_become_ours(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sampling_defaults(given, "auto") == expected
    assert sampling_defaults(given, "vllm") == {}


@pytest.mark.parametrize("given", [{"temperature": "hot"}, {"top_p": 7}, {"top_k": 0.5}, {"temperature": -1}])
def test_values_that_mean_nothing_stop_the_start(given: dict[str, Any]) -> None:
    with pytest.raises(StartError, match=r"generation_config\.json: .* --generation-config vllm"):
        sampling_defaults(given, "auto")
    assert sampling_defaults(given, "vllm") == {}


def test_what_is_not_supported_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "gllm"):
        assert sampling_defaults({"typical_p": 1.0, "eta_cutoff": 0}, "auto") == {}
        assert not caplog.text
        assert sampling_defaults({"typical_p": 0.9, "top_k": 20}, "auto") == {"top_k": 20}
    assert "left out: typical_p" in caplog.text
    assert "silent: top_k 20" in caplog.text


@pytest.fixture
def served(tmp_path: Path, tokenizer: Tokenizer) -> Iterator[Deployment]:
    defaults = {"temperature": 0.5, "top_p": 0.25, "top_k": 7, "max_tokens": 1000}
    with serving(tmp_path, tokenizer, defaults) as running:
        yield running


def test_a_silent_request_gets_the_defaults_and_one_that_speaks_its_own(served: Deployment) -> None:
    served.answers("fine")
    for ask in (served.chat, served.complete):
        num_generated = ask().json()["usage"]["completion_tokens"]
        submit = served.scheduler.submits[-1]
        sampling = submit.sampling
        assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.25, 7)
        # A default that is longer than the context is cut; one that is asked for is refused.
        assert submit.max_tokens + num_generated == 256 - len(submit.prompt)  # it counts down
        assert ask(max_tokens=1000).status_code == 400
        assert ask(temperature=0, top_p=1, top_k=-1, max_tokens=3).status_code == 200
        sampling = served.scheduler.submits[-1].sampling
        assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0, 1, 0)
        assert served.scheduler.submits[-1].max_tokens < 3
