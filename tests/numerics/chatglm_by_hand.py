"""ChatGLM's original layout: random checkpoints, their conversion for transformers, and its equations.

`logits_by_equations` is written from the published description (Du et al. 2022; Zeng et al. 2024; the
model card's config): plain torch, one sequence, no cache.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import GlmConfig, GlmForCausalLM

Weights = dict[str, Tensor]

CONFIG: dict[str, Any] = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "num_layers": 3,
    "padded_vocab_size": 163,
    "hidden_size": 64,
    "ffn_hidden_size": 88,
    "kv_channels": 64,
    "num_attention_heads": 4,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "seq_length": 256,
    "layernorm_epsilon": 1.5625e-07,
    "rmsnorm": True,
    "post_layer_norm": True,
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "original_rope": True,
    "apply_residual_connection_post_layernorm": False,
    "apply_query_key_layer_scaling": True,
    "attention_softmax_in_fp32": True,
    "fp32_residual_connection": False,
    "tie_word_embeddings": False,
    "eos_token_id": [2, 64795, 64797],
}


def random_weights(config: dict[str, Any], seed: int = 0, std: float = 0.3) -> Weights:
    draw = torch.Generator().manual_seed(seed)
    hidden, size, vocab = config["hidden_size"], config["ffn_hidden_size"], config["padded_vocab_size"]
    q_size = config["num_attention_heads"] * config["kv_channels"]
    qkv_size = q_size + 2 * config["multi_query_group_num"] * config["kv_channels"]
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.embedding.word_embeddings.weight": (vocab, hidden),
        "transformer.encoder.final_layernorm.weight": (hidden,),
        "transformer.output_layer.weight": (vocab, hidden),
    }
    for n in range(config["num_layers"]):
        prefix = f"transformer.encoder.layers.{n}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (hidden,),
            f"{prefix}self_attention.query_key_value.weight": (qkv_size, hidden),
            f"{prefix}self_attention.dense.weight": (hidden, q_size),
            f"{prefix}post_attention_layernorm.weight": (hidden,),
            f"{prefix}mlp.dense_h_to_4h.weight": (2 * size, hidden),
            f"{prefix}mlp.dense_4h_to_h.weight": (hidden, size),
        }
        if config["add_qkv_bias"] or config["add_bias_linear"]:
            shapes[f"{prefix}self_attention.query_key_value.bias"] = (qkv_size,)
        if config["add_bias_linear"]:
            shapes[f"{prefix}self_attention.dense.bias"] = (hidden,)
            shapes[f"{prefix}mlp.dense_h_to_4h.bias"] = (2 * size,)
            shapes[f"{prefix}mlp.dense_4h_to_h.bias"] = (hidden,)
    return {
        name: torch.randn(shape, generator=draw) * (0.2 if "norm" in name else std) + float("norm" in name)
        for name, shape in shapes.items()
    }


def write(path: Path, config: dict[str, Any], weights: Weights) -> Path:
    """The checkpoint, with the derived tensor that the published files carry."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(weights | {"transformer.rotary_pos_emb.inv_freq": torch.ones(16)}, path / "model.safetensors")
    return path


def as_glm(config: dict[str, Any], weights: Weights) -> GlmForCausalLM:
    """The same model in transformers' own layout."""
    heads, groups, head_dim = (
        config[key] for key in ("num_attention_heads", "multi_query_group_num", "kv_channels")
    )
    glm = GlmConfig(
        vocab_size=config["padded_vocab_size"], hidden_size=config["hidden_size"],
        intermediate_size=config["ffn_hidden_size"], num_hidden_layers=config["num_layers"],
        num_attention_heads=heads, num_key_value_heads=groups, head_dim=head_dim,
        rms_norm_eps=config["layernorm_epsilon"], max_position_embeddings=config["seq_length"],
        attention_bias=config["add_qkv_bias"], pad_token_id=None, eos_token_id=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0 * config.get("rope_ratio", 1)},
        attn_implementation="eager",
    )  # fmt: skip
    state = {
        "model.embed_tokens.weight": weights["transformer.embedding.word_embeddings.weight"],
        "model.norm.weight": weights["transformer.encoder.final_layernorm.weight"],
        "lm_head.weight": weights["transformer.output_layer.weight"],
    }
    sizes = [heads * head_dim, groups * head_dim, groups * head_dim]
    for n in range(config["num_layers"]):
        old, new = f"transformer.encoder.layers.{n}.", f"model.layers.{n}."
        for kind in ("weight", "bias"):
            fused = weights.get(f"{old}self_attention.query_key_value.{kind}")
            if fused is not None:
                for name, part in zip("qkv", fused.split(sizes), strict=True):
                    state[f"{new}self_attn.{name}_proj.{kind}"] = part
        for old_name, new_name in {
            "input_layernorm": "input_layernorm",
            "self_attention.dense": "self_attn.o_proj",
            "post_attention_layernorm": "post_attention_layernorm",
            "mlp.dense_h_to_4h": "mlp.gate_up_proj",
            "mlp.dense_4h_to_h": "mlp.down_proj",
        }.items():
            state[f"{new}{new_name}.weight"] = weights[f"{old}{old_name}.weight"]
    model = GlmForCausalLM(glm).eval()
    model.load_state_dict(state)
    return model


def logits_by_equations(config: dict[str, Any], weights: Weights, tokens: list[int]) -> Tensor:
    """float32 [num_tokens, vocab], every step of the forward pass spelled out for one sequence."""
    heads, groups, head_dim = (
        config[key] for key in ("num_attention_heads", "multi_query_group_num", "kv_channels")
    )
    length = len(tokens)

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + config["layernorm_epsilon"]).sqrt() * weights[name]

    def linear(x: Tensor, name: str) -> Tensor:
        out = x @ weights[f"{name}.weight"].T
        return out + weights[f"{name}.bias"] if f"{name}.bias" in weights else out

    rotary_dim = head_dim // 2  # the other half of each head does not turn
    base = 10000.0 * config.get("rope_ratio", 1)
    angle = torch.outer(
        torch.arange(length).float(), base ** (-torch.arange(0, rotary_dim, 2).float() / rotary_dim)
    )
    turn = torch.polar(torch.ones_like(angle), angle)[:, None]  # a rotation is a complex factor

    def rotate(x: Tensor) -> Tensor:  # [length, heads, head_dim]
        turning, still = x[..., :rotary_dim], x[..., rotary_dim:]
        if config["original_rope"]:  # pairs lie side by side
            turned = torch.view_as_real(
                torch.view_as_complex(turning.unflatten(-1, (-1, 2)).contiguous()) * turn
            )
            return torch.cat([turned.flatten(-2), still], -1)
        first, second = turning.chunk(2, -1)
        turned = torch.complex(first, second) * turn
        return torch.cat([turned.real, turned.imag, still], -1)

    x = weights["transformer.embedding.word_embeddings.weight"][tokens]
    for n in range(config["num_layers"]):
        prefix = f"transformer.encoder.layers.{n}."
        mixed = linear(norm(x, f"{prefix}input_layernorm.weight"), f"{prefix}self_attention.query_key_value")
        q = rotate(mixed[:, : heads * head_dim].view(length, heads, head_dim))
        k, v = mixed[:, heads * head_dim :].view(length, 2, groups, head_dim).unbind(1)
        k = rotate(k)
        attended = []
        for head in range(heads):
            group = head // (heads // groups)
            scores = q[:, head] @ k[:, group].T / math.sqrt(head_dim)
            future = torch.ones(length, length, dtype=torch.bool).triu(1)
            attended.append(scores.masked_fill(future, -math.inf).softmax(-1) @ v[:, group])
        x = x + linear(torch.cat(attended, -1), f"{prefix}self_attention.dense")
        inner = linear(norm(x, f"{prefix}post_attention_layernorm.weight"), f"{prefix}mlp.dense_h_to_4h")
        gate, up = inner.chunk(2, -1)
        x = x + linear(F.silu(gate) * up, f"{prefix}mlp.dense_4h_to_h")
    return (
        norm(x, "transformer.encoder.final_layernorm.weight") @ weights["transformer.output_layer.weight"].T
    )
