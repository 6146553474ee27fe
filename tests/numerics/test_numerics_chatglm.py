"""ChatGLM's original layout against transformers' GLM of the same weights, and against its equations."""

from pathlib import Path
from typing import Any

import chatglm_by_hand
import pytest
import torch
from chatglm_by_hand import CONFIG, as_glm, logits_by_equations, random_weights
from hand_made import generate, runner_of
from oracle import greedy, next_logits

NUM_TOKENS = 64
TOLERANCE = 1e-4
PROMPTS = [[(7 * i * i + 3) % 101 for i in range(length)] for length in (90, 1, 8, 33)]

# What the published files differ in, and awkward head sizes.
VARIANTS: dict[str, dict[str, Any]] = {
    "chatglm3-6b": {},
    "glm-4-9b-chat": {"rope_ratio": 500, "num_hidden_layers": 3, "kv_channels": 128},
    "glm-4-9b-chat-1m": {"rope_ratio": 10000, "multi_query_group_num": 4, "kv_channels": 80},
    "one group, no bias": {"multi_query_group_num": 1, "add_qkv_bias": False},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_original_layout_says_what_transformers_says_after_conversion(name: str, tmp_path: Path) -> None:
    config = CONFIG | VARIANTS[name]
    weights = random_weights(config)
    model = as_glm(config, weights)
    runner = runner_of(chatglm_by_hand.write(tmp_path, config, weights))
    for sequence in generate(runner, PROMPTS, NUM_TOKENS, chunk=17):
        prompt = sequence.tokens[: sequence.num_prompt_tokens]
        ids = greedy(model, prompt, NUM_TOKENS)
        assert sequence.generated == ids
        assert len(set(ids)) > 12
        torch.testing.assert_close(sequence.first_logits, next_logits(model, prompt), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [*VARIANTS.values(), {"original_rope": False}, {"add_bias_linear": True}],
    ids=[*VARIANTS, "neox rope", "biases everywhere"],
)
def test_the_original_layout_says_what_its_equations_say(changes: dict[str, Any], tmp_path: Path) -> None:
    config = CONFIG | changes
    weights = random_weights(config, seed=1)
    runner = runner_of(chatglm_by_hand.write(tmp_path, config, weights))
    for sequence in generate(runner, PROMPTS, NUM_TOKENS, chunk=17):
        logits = logits_by_equations(config, weights, sequence.tokens)[sequence.num_prompt_tokens - 1 : -1]
        assert sequence.generated == logits.argmax(-1).tolist()
        torch.testing.assert_close(sequence.first_logits, logits[0], atol=TOLERANCE, rtol=0)


def test_a_rope_ratio_changes_the_text(tmp_path: Path) -> None:
    weights = random_weights(CONFIG)
    texts = []
    for ratio in (1, 500):
        path = chatglm_by_hand.write(tmp_path / str(ratio), CONFIG | {"rope_ratio": ratio}, weights)
        texts.append(generate(runner_of(path), PROMPTS[:1], 16)[0].generated)
    assert texts[0] != texts[1]
