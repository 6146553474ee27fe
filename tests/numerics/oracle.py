"""Tiny random checkpoints of each family, written by transformers, which is also asked for the truth."""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Glm4Config,
    GlmConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
COMMON: dict[str, Any] = {"max_position_embeddings": 256, "attn_implementation": "eager"}

# Sequences reach 154 tokens, past the original length of each scaling.
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
}
YARN_IN_FULL = YARN | {
    "beta_fast": 16.0,
    "beta_slow": 2.0,
    "mscale": 0.8,
    "mscale_all_dim": 0.5,
    "truncate": False,
}
NO_IDS: dict[str, Any] = {"pad_token_id": None, "eos_token_id": 2}

# Between them: odd vocabularies; all, some and one key head; tied and not; head_dim of its own; biases.
SHAPES: dict[str, Any] = {
    "llama2": LlamaConfig(
        vocab_size=101, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, rms_norm_eps=1e-5, **COMMON,
    ),
    "llama3": LlamaConfig(
        vocab_size=257, hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=2, rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        rms_norm_eps=1e-5, **COMMON,
    ),
    "llama3.1": LlamaConfig(
        vocab_size=129, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, head_dim=32, rope_parameters=LLAMA3_SCALING, tie_word_embeddings=True,
        attention_bias=True, mlp_bias=True, **COMMON,
    ),
    "qwen2": Qwen2Config(
        vocab_size=151, hidden_size=56, intermediate_size=72, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=True, **COMMON,
    ),
    "llama-linear": LlamaConfig(
        vocab_size=103, hidden_size=64, intermediate_size=88, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=64, rope_parameters=LINEAR,
        **COMMON | {"max_position_embeddings": 64},
    ),
    "llama-dynamic": LlamaConfig(
        vocab_size=107, hidden_size=64, intermediate_size=88, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=128, rope_parameters=DYNAMIC,
        **COMMON | {"max_position_embeddings": 64},
    ),
    "llama-yarn": LlamaConfig(
        vocab_size=109, hidden_size=64, intermediate_size=88, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=80, rope_parameters=YARN, attention_bias=True, **COMMON,
    ),
    "qwen2-yarn": Qwen2Config(
        vocab_size=113, hidden_size=64, intermediate_size=88, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, rope_parameters=YARN_IN_FULL, **COMMON,
    ),
    "qwen3": Qwen3Config(
        vocab_size=127, hidden_size=56, intermediate_size=72, num_hidden_layers=2, num_attention_heads=5,
        num_key_value_heads=5, head_dim=80, tie_word_embeddings=True, **COMMON,
    ),
    "mistral": MistralConfig(
        vocab_size=131, hidden_size=64, intermediate_size=88, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=64, sliding_window=None, **COMMON,
    ),
    "mixtral": MixtralConfig(
        vocab_size=137, hidden_size=64, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=5, num_experts_per_tok=2, **COMMON,
    ),
    "qwen3-moe": Qwen3MoeConfig(
        vocab_size=139, hidden_size=64, intermediate_size=56, moe_intermediate_size=40, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=1, head_dim=64, num_experts=7, num_experts_per_tok=3,
        norm_topk_prob=True, **COMMON,
    ),
    "glm": GlmConfig(
        vocab_size=149, hidden_size=64, intermediate_size=88, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=128, **NO_IDS, **COMMON,
    ),
    "glm4": Glm4Config(
        vocab_size=157, hidden_size=64, intermediate_size=88, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=3, head_dim=80, tie_word_embeddings=True, attention_bias=False,
        **NO_IDS, **COMMON,
    ),
}  # fmt: skip
BASIC = ("llama2", "llama3", "llama3.1", "qwen2")  # for tests that do not look at what differs


def random_model(shape: str | PreTrainedConfig, seed: int = 0, std: float = 0.3) -> PreTrainedModel:
    """A model whose every parameter is spread so far that its greedy text wanders."""
    config = SHAPES[shape] if isinstance(shape, str) else shape
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    for parameter_name, parameter in model.named_parameters():
        if "norm" in parameter_name:
            torch.nn.init.normal_(parameter, 1.0, 0.2)
        else:
            torch.nn.init.normal_(parameter, 0.0, std)
    return model.eval()


def write(model: PreTrainedModel, path: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """The checkpoint of `model` in `dtype`, to which its own parameters are rounded, too (its rotary
    angles are not). Options as `save_pretrained` takes them."""
    copy.deepcopy(model).to(dtype).save_pretrained(path, **options)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()
    return path


def forget(model: PreTrainedModel) -> None:
    """A dynamic rotary base stays that of the longest sequence so far, until a short one comes."""
    model(torch.tensor([[0]]))


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: list[int], num_tokens: int) -> list[int]:
    """What transformers' own `generate` says."""
    forget(model)
    ids = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return [int(token) for token in ids[0, len(prompt) :]]


@torch.no_grad()
def next_logits(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """float32 [vocab] behind `tokens`."""
    forget(model)
    return model(torch.tensor([tokens])).logits[0, -1]
