"""Frequencies and magnitudes of every rope scaling at real sizes, against those of transformers."""

import random
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from gllm.worker.models.reading import read_rotary

LLAMA31 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
CASES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama 3.1": LLAMA31,
    "llama 3.2": LLAMA31 | {"factor": 32.0},
    "yarn": YARN,
    "yarn, not truncated": YARN | {"truncate": False},
    "yarn, other betas": YARN | {"beta_fast": 20.0, "beta_slow": 3.0},
    "yarn, magnitude given": YARN | {"attention_factor": 1.25},
    "yarn, magnitude of deepseek": YARN | {"mscale": 0.707, "mscale_all_dim": 0.5},
    "yarn, no longer than before": YARN | {"factor": 1.0},
}


@pytest.mark.parametrize("name", CASES)
def test_a_scaling_turns_as_in_transformers(name: str) -> None:
    seed = 3
    print("seed", seed)
    draw = random.Random(seed)
    for _ in range(20):
        theta, head_dim = draw.choice([1e4, 5e5, 1e6, 5e6]), draw.choice([64, 80, 128])
        share = draw.choice([1.0, 0.5])
        block = CASES[name] | {"rope_theta": theta, "partial_rotary_factor": share}
        if "original_max_position_embeddings" in block:
            block["original_max_position_embeddings"] = draw.choice([4096, 8192, 32768, 2**20])
        config = LlamaConfig(
            hidden_size=2 * head_dim, num_attention_heads=2, head_dim=head_dim,
            max_position_embeddings=32768, rope_parameters=dict(block),
        )  # fmt: skip
        inv_freq, magnitude = ROPE_INIT_FUNCTIONS[block["rope_type"]](config, torch.device("cpu"))
        rotary = read_rotary({"rope_parameters": block, "max_position_embeddings": 32768}, head_dim)
        torch.testing.assert_close(rotary.inverse_frequencies(), inv_freq, atol=0, rtol=1e-6)
        assert rotary.magnitude == pytest.approx(magnitude, rel=1e-12)


def test_a_dynamic_base_follows_the_length_as_in_transformers() -> None:
    seed = 4
    print("seed", seed)
    draw = random.Random(seed)
    for _ in range(20):
        original = draw.choice([64, 2048, 32768])
        block = {"rope_type": "dynamic", "factor": draw.choice([1.0, 2.0, 3.7, 8.0]), "rope_theta": 1e4}
        head_dim, share = draw.choice([64, 80, 128]), draw.choice([1.0, 0.5])
        config = LlamaConfig(
            hidden_size=2 * head_dim, num_attention_heads=2, head_dim=head_dim,
            max_position_embeddings=original,
            rope_parameters=block | {"partial_rotary_factor": share},
        )  # fmt: skip
        facts = {"rope_parameters": block, "max_position_embeddings": original}
        rotary = read_rotary(facts | {"partial_rotary_factor": share}, head_dim)
        assert rotary.length_bound == original
        lengths = [
            1,
            original - 1,
            original,
            original + 1,
            *(draw.randint(1, 9 * original) for _ in range(9)),
        ]
        found = rotary.inverse_frequencies_at(torch.tensor(lengths), rotary.inverse_frequencies())
        for length, inv_freq in zip(lengths, found, strict=True):
            expected, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, torch.device("cpu"), torch.tensor(length))
            torch.testing.assert_close(inv_freq, expected, atol=0, rtol=1e-6)
            assert torch.equal(inv_freq, rotary.inverse_frequencies()) == (length <= original)
