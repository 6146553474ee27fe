"""What families refuse, hold back or warn of, judged by their configuration alone; and dummy weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gllm.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from gllm.kernels.dispatch import operators
from gllm.worker.look_through import look_through
from gllm.worker.models import FAMILIES, caveats, load_model, longest_context, read_architecture
from gllm.worker.options import WorkerOptions
from gllm.worker.start import make_runner

# Published configurations, without what no reader asks for.
GLM4_CHAT_HF: dict[str, Any] = {
    "architectures": ["GlmForCausalLM"], "model_type": "glm", "vocab_size": 151552, "hidden_size": 4096,
    "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 32, "head_dim": 128,
    "num_key_value_heads": 2, "max_position_embeddings": 131072, "rms_norm_eps": 1.5625e-07,
    "attention_bias": True, "rope_theta": 10000.0, "eos_token_id": [151329, 151336, 151338],
}  # fmt: skip
GLM4_CHAT: dict[str, Any] = {
    "architectures": ["ChatGLMModel"], "model_type": "chatglm", "padded_vocab_size": 151552,
    "hidden_size": 4096, "ffn_hidden_size": 13696, "num_layers": 40, "num_attention_heads": 32,
    "kv_channels": 128, "multi_query_attention": True, "multi_query_group_num": 2, "seq_length": 131072,
    "layernorm_epsilon": 1.5625e-07, "rope_ratio": 500, "original_rope": True, "add_qkv_bias": True,
    "add_bias_linear": False, "rmsnorm": True, "post_layer_norm": True,
    "apply_residual_connection_post_layernorm": False, "eos_token_id": [151329, 151336, 151338],
}  # fmt: skip
CHATGLM3: dict[str, Any] = GLM4_CHAT | {
    "padded_vocab_size": 65024, "num_layers": 28, "seq_length": 8192, "layernorm_epsilon": 1e-5,
    "rope_ratio": None, "eos_token_id": 2,
}  # fmt: skip
LLAMA3: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "eos_token_id": 128001,
}  # fmt: skip
MISTRAL_1: dict[str, Any] = LLAMA3 | {
    "architectures": ["MistralForCausalLM"], "vocab_size": 32000, "max_position_embeddings": 32768,
    "sliding_window": 4096, "rope_theta": 10000.0,
}  # fmt: skip
QWEN2: dict[str, Any] = LLAMA3 | {
    "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True, "sliding_window": 2048,
    "max_window_layers": 16,
}  # fmt: skip
MIXTRAL: dict[str, Any] = MISTRAL_1 | {
    "architectures": ["MixtralForCausalLM"], "num_local_experts": 8, "num_experts_per_tok": 2,
    "sliding_window": None,
}  # fmt: skip
QWEN3_MOE: dict[str, Any] = LLAMA3 | {
    "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 128, "num_experts_per_tok": 8,
    "moe_intermediate_size": 768, "decoder_sparse_step": 1, "mlp_only_layers": [], "head_dim": 128,
    "hidden_size": 2048, "num_hidden_layers": 48, "num_key_value_heads": 4, "vocab_size": 151936,
}  # fmt: skip


def opened(path: Path, config: dict[str, Any]) -> Checkpoint:
    (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return open_checkpoint(path, weights=False)


def refused(path: Path, config: dict[str, Any], *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_architecture(opened(path, config))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("config", "num_parameters"),
    [(LLAMA3, 8_030_261_248), (MIXTRAL, 46_702_792_704), (QWEN3_MOE, 30_532_122_624),
     (GLM4_CHAT, 9_399_951_360), (GLM4_CHAT_HF, 9_399_951_360), (CHATGLM3, 6_243_584_000)],
    ids=["llama3-8b", "mixtral-8x7b", "qwen3-30b-a3b", "glm-4-9b-chat", "glm-4-9b-chat-hf", "chatglm3-6b"],
)  # fmt: skip
def test_published_configurations_have_the_published_number_of_parameters(
    config: dict[str, Any], num_parameters: int, tmp_path: Path
) -> None:
    assert read_architecture(opened(tmp_path, config)).num_parameters() == num_parameters


def test_what_published_files_leave_out_has_the_family_s_default(tmp_path: Path) -> None:
    left_out = dict.fromkeys(("rope_theta", "sliding_window", "head_dim", "original_rope", "rms_norm_eps"))
    assert read_architecture(opened(tmp_path, CHATGLM3 | left_out)).rotary.interleaved
    mixtral = read_architecture(opened(tmp_path, MIXTRAL | left_out))
    assert (mixtral.rotary.theta, mixtral.norm_eps, mixtral.window) == (1e6, 1e-5, None)
    assert read_architecture(opened(tmp_path, MISTRAL_1 | left_out)).window == 4096
    qwen3 = read_architecture(opened(tmp_path, QWEN3_MOE | left_out))
    assert (qwen3.head_dim, qwen3.rotary.theta, qwen3.norm_eps) == (128, 1e4, 1e-6)


# ---- GLM's two layouts ------------------------------------------------------------------------


def test_the_two_layouts_of_glm_4_9b_chat_agree_but_for_the_base(tmp_path: Path) -> None:
    original = opened(tmp_path, GLM4_CHAT)
    converted = opened(tmp_path, GLM4_CHAT_HF)
    assert read_architecture(original).rotary.theta == 5e6
    assert read_architecture(converted).rotary.theta == 1e4
    assert read_architecture(converted, rope_theta=5e6) == read_architecture(original)


def test_the_rope_trap_of_the_converted_layout_is_told_and_has_a_way_out(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, GLM4_CHAT_HF)
    (sentence,) = caveats(checkpoint, read_architecture(checkpoint))
    assert "rope_theta 10000" in sentence
    assert "rope_ratio 500" in sentence
    assert "--rope-theta 5e+06" in sentence
    assert not caveats(checkpoint, read_architecture(checkpoint, rope_theta=5e6))
    smaller = opened(tmp_path, GLM4_CHAT_HF | {"max_position_embeddings": 8192})
    assert not caveats(smaller, read_architecture(smaller))


def test_the_other_meaning_of_rope_ratio_is_told(tmp_path: Path) -> None:
    for ratio, told in ((None, False), (1, False), (50, False), (4, True), (16, True)):
        checkpoint = opened(tmp_path, CHATGLM3 | {"rope_ratio": ratio})
        found = caveats(checkpoint, read_architecture(checkpoint))
        assert bool(found) == told
        assert all("chatglm2-6b-32k divides positions" in sentence for sentence in found)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("multi_query_attention", False), ("rmsnorm", False), ("post_layer_norm", False),
        ("apply_residual_connection_post_layernorm", True), ("position_encoding_2d", True),
        ("rope_scaling", {"type": "linear", "factor": 2.0}), ("multi_query_group_num", 5),
        ("multi_query_group_num", None), ("quantization_bit", 4), ("kv_channels", 6),
    ],
)  # fmt: skip
def test_what_chatglm_never_published_is_refused_by_name(key: str, value: Any, tmp_path: Path) -> None:
    refused(tmp_path, CHATGLM3 | {key: value}, "dimensions of a head" if key == "kv_channels" else key)


# ---- sliding windows, experts -----------------------------------------------------------------


@pytest.mark.parametrize(("config", "window"), [(MISTRAL_1, 4096), (QWEN2, 2048)], ids=["mistral", "qwen2"])
def test_a_sliding_window_holds_sequences_to_its_length(
    config: dict[str, Any], window: int, tmp_path: Path
) -> None:
    checkpoint = opened(tmp_path, config)
    facts = read_architecture(checkpoint)
    assert longest_context(checkpoint, facts) == window
    (sentence,) = caveats(checkpoint, facts)
    assert f"held to {window} of {checkpoint.max_model_len} tokens" in sentence
    options = WorkerOptions(tmp_path, load_format="dummy", num_threads=1, max_model_len=window + 1)
    with pytest.raises(CheckpointError, match=f"sliding window of {window} tokens .* set it to {window}"):
        make_runner(options)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_sliding_window": False}, {"max_window_layers": 32}, {"sliding_window": 8192},
        {"layer_types": ["full_attention"] * 32},
    ],
)  # fmt: skip
def test_a_window_that_hides_nothing_changes_nothing(changes: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, QWEN2 | changes)
    facts = read_architecture(checkpoint)
    assert longest_context(checkpoint, facts) == 8192
    assert not caveats(checkpoint, facts)


def test_layers_without_experts_and_too_few_experts_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, QWEN3_MOE | {"mlp_only_layers": [0]}, "mlp_only_layers")
    refused(tmp_path, QWEN3_MOE | {"decoder_sparse_step": 2}, "decoder_sparse_step")
    refused(tmp_path, MIXTRAL | {"num_experts_per_tok": 9}, "num_experts_per_tok is 9, but there are 8")


# ---- rope -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scaling", "length"),
    [
        ({"type": "linear", "factor": 2.0}, 16384),
        ({"type": "dynamic", "factor": 2.0}, 16384),
        ({"type": "yarn", "factor": 4.0}, 32768),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
    ],
)
def test_a_scaling_says_how_long_a_sequence_may_be(
    scaling: dict[str, Any], length: int, tmp_path: Path
) -> None:
    checkpoint = opened(tmp_path, LLAMA3 | {"rope_scaling": scaling})
    read_architecture(checkpoint)
    assert checkpoint.max_model_len == length


def test_only_dynamic_rope_depends_on_the_length(tmp_path: Path) -> None:
    for scaling, bound in (
        ({"type": "dynamic", "factor": 2.0}, 8192),
        ({"type": "linear", "factor": 2.0}, None),
    ):
        facts = read_architecture(opened(tmp_path, LLAMA3 | {"rope_scaling": scaling}))
        assert facts.rotary.length_bound == bound


def test_dynamic_rope_of_one_pair_is_refused(tmp_path: Path) -> None:
    scaling = {"type": "dynamic", "factor": 2.0}
    refused(tmp_path, LLAMA3 | {"rope_scaling": scaling, "partial_rotary_factor": 2 / 128}, "dynamic rope")


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3"])
def test_a_scaling_without_a_factor_is_refused(kind: str, tmp_path: Path) -> None:
    config = LLAMA3 | {"rope_scaling": {"type": kind}}
    with pytest.raises(CheckpointError, match="has no factor"):
        read_architecture(opened(tmp_path, config))


# ---- dummy weights ----------------------------------------------------------------------------


TINY = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 71, "head_dim": 8, "moe_intermediate_size": 16,
        "num_experts": 3, "num_local_experts": 3, "num_experts_per_tok": 2, "padded_vocab_size": 71,
        "ffn_hidden_size": 40, "num_layers": 2, "kv_channels": 8, "multi_query_group_num": 2,
        "max_position_embeddings": 64}  # fmt: skip


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_steps_with_dummy_weights(architecture: str, tmp_path: Path) -> None:
    opened(tmp_path, TINY | {"architectures": [architecture]})
    options = WorkerOptions(tmp_path, load_format="dummy", dtype="bfloat16", num_threads=1, max_num_seqs=2)
    runner = make_runner(options)
    runner.slots.check()
    assert runner.model.embed.weight.dtype == torch.bfloat16


def test_no_two_rows_of_dummy_weights_are_alike(tmp_path: Path) -> None:
    config = TINY | {"architectures": ["LlamaForCausalLM"], "vocab_size": 50_000, "hidden_size": 64}
    checkpoint = opened(tmp_path, config)
    model = load_model(
        checkpoint, torch.float32, torch.device("cpu"), operators("cpu", torch.float32), dummy=True
    )
    rows = model.embed.weight
    assert len(rows.unique(dim=0)) == len(rows)
    assert 0.015 < rows.std() < 0.025


def test_a_directory_without_weights_is_refused_unless_they_are_dummies(tmp_path: Path) -> None:
    opened(tmp_path, LLAMA3)
    assert look_through(WorkerOptions(tmp_path, load_format="dummy")).facts.num_layers == 32
    with pytest.raises(CheckpointError, match=r"holds no \*.safetensors file"):
        look_through(WorkerOptions(tmp_path))


def test_mistral_without_a_window_sees_all(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MISTRAL_1 | {"sliding_window": None}))
    checkpoint = open_checkpoint(tmp_path, weights=False)
    assert longest_context(checkpoint, read_architecture(checkpoint)) == 32768
