"""However a checkpoint is stored, the same model comes out of it."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hand_made import generate, runner_of
from oracle import LLAMA3_SCALING, SHAPES, greedy, next_logits, random_model, write
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6] * 9
NUM_TOKENS = 24


def agrees(model: PreTrainedModel, path: Path) -> None:
    (sequence,) = generate(runner_of(path), [PROMPT], NUM_TOKENS, chunk=50)
    assert sequence.generated == greedy(model, PROMPT, NUM_TOKENS)
    torch.testing.assert_close(sequence.first_logits, next_logits(model, PROMPT), atol=1e-4, rtol=0)


def edit_config(path: Path, **changes: Any) -> None:
    """Set keys of config.json; None removes one."""
    config = json.loads((path / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (path / "config.json").write_text(json.dumps(kept))


@pytest.mark.parametrize("name", SHAPES)
def test_shards_are_put_together(name: str, tmp_path: Path) -> None:
    model = random_model(name)
    path = write(model, tmp_path, max_shard_size="40KB")
    assert len(list(path.glob("*.safetensors"))) > 2
    agrees(model, path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_widened_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    model = random_model("llama3")
    path = write(model, tmp_path, dtype)  # which rounds `model`, too
    agrees(model, path)


def test_older_files_give_the_rope_settings_under_their_older_names(tmp_path: Path) -> None:
    model = random_model("llama3.1")
    path = write(model, tmp_path)
    scaling = {key: value for key, value in LLAMA3_SCALING.items() if key != "rope_theta"}
    scaling["type"] = scaling.pop("rope_type")
    edit_config(path, rope_parameters=None, rope_theta=LLAMA3_SCALING["rope_theta"], rope_scaling=scaling)
    agrees(model, path)


def test_the_rope_scaling_of_llama_3_1_matters_for_this_prompt(tmp_path: Path) -> None:
    model = random_model("llama3.1")
    path = write(model, tmp_path)
    edit_config(path, rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    with pytest.raises(AssertionError):
        agrees(model, path)


def test_linear_rope_scaling_and_small_differences_of_llama_are_honoured(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=77, hidden_size=40, intermediate_size=56, num_hidden_layers=2, num_attention_heads=5,
        num_key_value_heads=5, head_dim=16, max_position_embeddings=128, rms_norm_eps=1e-3,
        rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    )  # fmt: skip
    torch.manual_seed(5)
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.3)
    path = write(model, tmp_path)
    agrees(model, path)
    assert runner_of(path).slots.max_model_len == 512


def test_up_to_the_length_of_its_window_mistral_is_exact(tmp_path: Path) -> None:
    config = copy.deepcopy(SHAPES["mistral"])
    config.sliding_window = len(PROMPT) + NUM_TOKENS
    model = random_model(config)
    runner = runner_of(write(model, tmp_path))
    assert runner.slots.max_model_len == config.sliding_window
    (sequence,) = generate(runner, [PROMPT], NUM_TOKENS, chunk=50)
    assert sequence.generated == greedy(model, PROMPT, NUM_TOKENS)
    # One token more, and transformers forgets the first one.
    ids = PROMPT + sequence.generated
    whole, forgotten = next_logits(model, [*ids, 5]), next_logits(model, [ids[0] ^ 1, *ids[1:], 5])
    assert not torch.equal(whole, forgotten)  # deeper layers still carry it
    config.num_hidden_layers = 1
    shallow = random_model(config)
    assert torch.equal(next_logits(shallow, [*ids, 5]), next_logits(shallow, [ids[0] ^ 1, *ids[1:], 5]))


def test_experts_whose_shares_are_not_made_to_sum_to_1_are_honoured(tmp_path: Path) -> None:
    config = copy.deepcopy(SHAPES["qwen3-moe"])
    config.norm_topk_prob = False
    model = random_model(config)
    agrees(model, write(model, tmp_path))


def test_another_rotary_base_is_taken_from_the_option(tmp_path: Path) -> None:
    config = copy.deepcopy(SHAPES["glm"])
    config.rope_parameters = config.rope_parameters | {"rope_theta": 5e6}
    model = random_model(config)
    path = write(model, tmp_path)
    edit_config(path, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    runner = runner_of(path, rope_theta=5e6)
    (sequence,) = generate(runner, [PROMPT], NUM_TOKENS)
    assert sequence.generated == greedy(model, PROMPT, NUM_TOKENS)


def test_what_published_files_of_glm_leave_out_has_the_values_of_transformers(tmp_path: Path) -> None:
    model = random_model("glm")
    path = write(model, tmp_path)
    edit_config(
        path, rope_parameters=None, partial_rotary_factor=None, head_dim=None, rms_norm_eps=None,
        attention_bias=None, tie_word_embeddings=None,
    )  # fmt: skip
    agrees(model, path)


@pytest.mark.parametrize("name", SHAPES)
def test_the_slow_and_obvious_kernels_make_the_same_text(name: str, tmp_path: Path) -> None:
    model = random_model(name)
    path = write(model, tmp_path)
    (sequence,) = generate(runner_of(path, backend="reference"), [PROMPT], 8, chunk=31)
    assert sequence.generated == greedy(model, PROMPT, 8)
