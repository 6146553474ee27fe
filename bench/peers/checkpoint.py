"""Random weights in the shape of a small Llama, as a checkpoint that every engine reads.

    python -m bench.peers.checkpoint --out DIR --dtype float32|bfloat16

124.7 million parameters. Every tensor has a random stream of its own, by seed and name, and is rounded to
bfloat16; the float32 checkpoint holds the rounded values. So both are the same model, and what computes in
float32 must draw the same tokens from either. The tokenizer, a byte-level BPE of the standard library's own
sources, only lets servers start: the comparison sends token ids.

Needs numpy, torch, safetensors and tokenizers.
"""

import argparse
import importlib
import json
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, VOCAB, CONTEXT = (
    768,
    12,
    12,
    4,
    64,
    2048,
    32000,
    4096,
)
SPECIAL = ("<unk>", "<s>", "</s>")
# Wider than the usual 0.02, so that the likeliest token is seldom nearly tied with another.
STANDARD_DEVIATION = 0.04

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "vocab_size": VOCAB,
    "max_position_embeddings": CONTEXT, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False, "bos_token_id": 1,
    "eos_token_id": 2, "use_cache": True,
}  # fmt: skip
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT, "unk_token": "<unk>",
    "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "clean_up_tokenization_spaces": False,
}  # fmt: skip


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of the checkpoint."""
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (HIDDEN,)
        yield f"{prefix}.self_attn.q_proj.weight", (HEADS * HEAD_DIM, HIDDEN)
        yield f"{prefix}.self_attn.k_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield f"{prefix}.self_attn.v_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield f"{prefix}.self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_DIM)
        yield f"{prefix}.post_attention_layernorm.weight", (HIDDEN,)
        yield f"{prefix}.mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{prefix}.mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{prefix}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCAB, HIDDEN)


def write(out: Path, dtype: str, seed: int) -> None:
    """The whole directory."""
    numpy, torch = importlib.import_module("numpy"), importlib.import_module("torch")

    def draw(name: str, shape: tuple[int, ...]) -> Any:
        rng = numpy.random.default_rng([seed, zlib.crc32(name.encode())])
        values = rng.standard_normal(shape, dtype=numpy.float32)
        values = 1 + 0.1 * values if name.endswith("norm.weight") else STANDARD_DEVIATION * values
        return torch.from_numpy(values).bfloat16().to(getattr(torch, dtype))

    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: draw(name, shape) for name, shape in shapes()}
    save_file = importlib.import_module("safetensors.torch").save_file
    save_file(tensors, str(out / "model.safetensors"), metadata={"format": "pt"})
    files = {
        "config.json": CONFIG | {"torch_dtype": dtype},
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "do_sample": False},
        "tokenizer_config.json": TOKENIZER_CONFIG,
    }
    for name, held in files.items():
        (out / name).write_text(json.dumps(held, indent=2) + "\n")
    tokenizer().save(str(out / "tokenizer.json"))


def tokenizer() -> Any:
    """A byte-level BPE of VOCAB tokens."""
    library = importlib.import_module("tokenizers")
    models, pre_tokenizers, decoders, trainers = (
        importlib.import_module(f"tokenizers.{name}")
        for name in ("models", "pre_tokenizers", "decoders", "trainers")
    )
    made = library.Tokenizer(models.BPE(unk_token=None))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "lib2to3", "test", "tests"}
    sources = [path for path in sorted(root.rglob("*.py")) if not left_out.intersection(path.parts)]
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in sources)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    made.train_from_iterator(texts, trainer)
    if missing := VOCAB - made.get_vocab_size():
        made.add_tokens([f"<unused{number}>" for number in range(missing)])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(given.out, given.dtype, given.seed)


if __name__ == "__main__":
    main()
