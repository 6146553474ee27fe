"""A model directory made by hand, so that a test can spoil any part of it."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 67,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "eos_token_id": 2,
}


def tensors(config: dict[str, Any] = CONFIG, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Random tensors of a Llama with this configuration."""
    draw = torch.Generator().manual_seed(0)
    hidden, size, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens": (vocab, hidden), "model.norm": (hidden,), "lm_head": (vocab, hidden)}
    for n in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{n}."
        shapes |= {
            f"{prefix}input_layernorm": (hidden,),
            f"{prefix}post_attention_layernorm": (hidden,),
            f"{prefix}self_attn.q_proj": (hidden, hidden),
            f"{prefix}self_attn.k_proj": (kv, hidden),
            f"{prefix}self_attn.v_proj": (kv, hidden),
            f"{prefix}self_attn.o_proj": (hidden, hidden),
            f"{prefix}mlp.gate_proj": (size, hidden),
            f"{prefix}mlp.up_proj": (size, hidden),
            f"{prefix}mlp.down_proj": (hidden, size),
        }
    return {
        f"{name}.weight": (torch.randn(shape, generator=draw) * 0.4).to(dtype)
        for name, shape in shapes.items()
    }


def write(
    path: Path, config: dict[str, Any] | None = None, weights: dict[str, torch.Tensor] | None = None
) -> Path:
    """A checkpoint of one file; `config` overrides single keys."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    save_file(tensors() if weights is None else weights, path / "model.safetensors")
    return path


def shard(path: Path) -> Path:
    """Split the checkpoint's one file in two, with an index."""
    everything = tensors()
    names = sorted(everything)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: everything[name] for name in part}, path / file)
        weight_map |= dict.fromkeys(part, file)
    (path / "model.safetensors").unlink()
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path
