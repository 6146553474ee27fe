"""A checkpoint of `bench.peers.checkpoint` as GGUF, which llama.cpp reads.

    python -m bench.peers.to_gguf --model DIR --out FILE.gguf --dtype float32|bfloat16

ggml's graph of a Llama rotates adjacent elements of a head, Hugging Face's the halves of it: the rows of
queries and keys are interleaved here. Needs gguf, torch, safetensors and numpy.
"""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
IN_LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def convert(model: Path, out: Path, dtype: str) -> None:
    library, torch = importlib.import_module("gguf"), importlib.import_module("torch")
    config = json.loads((model / "config.json").read_text())
    writer = library.GGUFWriter(str(out), "llama")
    kind = {"float32": library.LlamaFileType.ALL_F32, "bfloat16": library.LlamaFileType.MOSTLY_BF16}[dtype]
    write_config(writer, config, kind)
    write_tokenizer(writer, library.TokenType, json.loads((model / "tokenizer.json").read_text()), config)
    heads = {
        "self_attn.q_proj": config["num_attention_heads"],
        "self_attn.k_proj": config["num_key_value_heads"],
    }
    loaded = importlib.import_module("safetensors.torch").load_file(str(model / "model.safetensors"))
    for name, tensor in loaded.items():
        values, target = tensor.float(), OUTSIDE.get(name)
        if target is None:
            _, _, layer, rest = name.split(".", 3)
            part = rest.removesuffix(".weight")
            target = f"blk.{layer}.{IN_LAYER[part]}.weight"
            values = interleaved(values, heads[part]) if part in heads else values
        if dtype == "float32" or values.dim() == 1:
            writer.add_tensor(target, values.contiguous().numpy())
        else:
            raw = values.bfloat16().contiguous().view(torch.uint8).numpy()
            writer.add_tensor(target, raw, raw_dtype=library.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_config(writer: Any, config: dict[str, Any], kind: Any) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(kind)


def write_tokenizer(writer: Any, kinds: Any, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    added = {one["content"]: one["id"] for one in tokenizer.get("added_tokens", ())}
    ids: dict[str, int] = tokenizer["model"]["vocab"] | added
    names = sorted(ids, key=lambda name: ids[name])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types([kinds.CONTROL if name in added else kinds.NORMAL for name in names])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def interleaved(rows: Any, num_heads: int) -> Any:
    """Rows of each head in the order first, middle, second, middle + 1, ..."""
    num_rows, num_columns = rows.shape
    halves = rows.view(num_heads, 2, num_rows // num_heads // 2, num_columns)
    return halves.transpose(1, 2).reshape(num_rows, num_columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), required=True)
    given = parser.parse_args()
    convert(given.model, given.out, given.dtype)


if __name__ == "__main__":
    main()
