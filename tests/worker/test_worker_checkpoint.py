"""Model directories that cannot be used, and the sentence that each of them gets."""

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoint
import torch
from safetensors.torch import save_file

from gllm.checkpoint import CheckpointError, open_checkpoint, read_header
from gllm.kernels.dispatch import operators
from gllm.worker.models import load_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_checkpoint.write(tmp_path / "model")


def load(path: Path) -> None:
    device = torch.device("cpu")
    load_model(open_checkpoint(path), torch.float32, device, operators("cpu", torch.float32))


def refused(path: Path, *words: str) -> str:
    """The sentence with which loading is refused, which must contain `words`."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    sentence = str(caught.value)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence
    return sentence


def set_config(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(config))


def test_a_sound_checkpoint_says_what_it_is(model: Path) -> None:
    (model / "generation_config.json").write_text('{"eos_token_id": [5, 2, 7]}')
    checkpoint = open_checkpoint(str(model))
    assert (checkpoint.architecture, checkpoint.max_model_len, checkpoint.vocab_size) == (
        "LlamaForCausalLM", 128, 67,
    )  # fmt: skip
    assert checkpoint.eos_token_ids == (2, 5, 7)
    entry = checkpoint.tensors["model.embed_tokens.weight"]
    assert (entry.dtype, entry.shape, entry.end - entry.start) == ("F32", (67, 16), 67 * 16 * 4)
    load(model)


def test_shards_of_an_index_are_read_and_other_files_ignored(model: Path) -> None:
    tiny_checkpoint.shard(model)
    save_file({"stranger": torch.zeros(1)}, model / "consolidated.safetensors")
    assert len(open_checkpoint(model).tensors) == len(tiny_checkpoint.tensors())
    load(model)


def test_the_checkpoint_module_needs_no_torch() -> None:
    import subprocess

    code = "import gllm.checkpoint, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# ---- what can be wrong with the directory -------------------------------------------------------


def test_no_directory(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere", "is not a directory", "hf download")


def test_no_config(tmp_path: Path) -> None:
    refused(tmp_path, "has no config.json")


def test_config_is_not_json(model: Path) -> None:
    for text in ("{", "", "[" * 100_000, "\xff"):
        (model / "config.json").write_bytes(text.encode("latin-1"))
        refused(model, "config.json is not JSON")
    (model / "config.json").write_text("[1]")
    refused(model, "expected an object")


def test_only_pickled_weights(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    refused(model, "only as pytorch_model.bin", "save_pretrained")


def test_no_weights_at_all(model: Path) -> None:
    (model / "model.safetensors").unlink()
    refused(model, "holds no *.safetensors file")


def test_a_missing_shard(model: Path) -> None:
    (tiny_checkpoint.shard(model) / "model-00002-of-00002.safetensors").unlink()
    refused(model, "1 of the 2 shards", "model-00002-of-00002.safetensors")


def test_a_missing_index(model: Path) -> None:
    (tiny_checkpoint.shard(model) / "model.safetensors.index.json").unlink()
    refused(model, "2 safetensors files but no model.safetensors.index.json")


def test_an_index_that_points_elsewhere(model: Path) -> None:
    for name in ("../model.safetensors", "/etc/passwd", ".."):
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        refused(model, repr(name), "a file of its own directory")


def test_an_index_of_another_checkpoint(model: Path) -> None:
    path = tiny_checkpoint.shard(model) / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.extra.weight"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps(index))
    refused(model, "model.extra.weight in model-00001-of-00002.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1, -5000])
def test_a_truncated_shard(model: Path, kept: int) -> None:
    file = model / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:kept])
    refused(model, "model.safetensors", "first 8 bytes" if 0 <= kept < 8 else "is cut off")


def test_a_file_with_something_behind_its_tensors(model: Path) -> None:
    with (model / "model.safetensors").open("ab") as file:
        file.write(b"more")
    refused(model, "one behind the other")


def raw(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b"\xff\xff",
        b"[" * 50_000,
        {"a": None},
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 16]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        },
    ],
)
def test_headers_that_lie(tmp_path: Path, header: Any) -> None:
    with pytest.raises(CheckpointError):
        read_header(raw(tmp_path / "x.safetensors", header, bytes(8)))


def test_a_header_that_claims_to_be_huge(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for length in (2**63, 2**40, 100_000_001, 1):
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        with pytest.raises(CheckpointError, match=f"a header of {length} bytes"):
            read_header(path)


def test_tensors_at_odd_offsets_are_loaded(model: Path) -> None:
    file = model / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip() + b" " * 3
    while len(header) % 4 != 1:
        header += b" "
    file.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
    assert all(entry.start % 4 for entry in open_checkpoint(model).tensors.values())
    loaded = load_model(
        open_checkpoint(model), torch.float32, torch.device("cpu"), operators("cpu", torch.float32)
    )
    assert torch.equal(loaded.embed.weight, tiny_checkpoint.tensors()["model.embed_tokens.weight"])


# ---- what can be wrong with the configuration ---------------------------------------------------


def test_no_architecture(model: Path) -> None:
    for value in (None, [], "LlamaForCausalLM", [3]):
        set_config(model, architectures=value)
        refused(model, "names no architecture")


def test_an_unknown_architecture_names_those_known(model: Path) -> None:
    set_config(model, architectures=["MambaForCausalLM"])
    refused(model, "'MambaForCausalLM' is not known", "LlamaForCausalLM", "Qwen2ForCausalLM")


def test_an_unknown_rope_scaling_names_those_known(model: Path) -> None:
    for block in ({"type": "longrope", "factor": 4.0}, {"rope_type": "su"}, {"rope_type": [3]}):
        set_config(model, rope_scaling=block)
        refused(model, repr(next(iter(block.values()))), "'default', 'linear', 'dynamic', 'llama3', 'yarn'")
    set_config(model, rope_scaling="linear")
    refused(model, "rope_scaling is 'linear', expected a table")
    set_config(model, rope_scaling={"rope_type": "llama3", "factor": 8.0})
    refused(model, "config.json has no low_freq_factor")


def test_a_quantised_checkpoint(model: Path) -> None:
    set_config(model, quantization_config={"quant_method": "gptq", "bits": 4})
    refused(model, "quantised", "'gptq'", "give the unquantised checkpoint")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 0), ("hidden_size", "16"), ("hidden_size", 16.0), ("hidden_size", True),
        ("num_hidden_layers", -1), ("vocab_size", 2**40), ("num_attention_heads", None),
        ("num_key_value_heads", 3), ("rms_norm_eps", 0), ("rms_norm_eps", "small"), ("rope_theta", -1.0),
        ("hidden_act", "gelu"), ("eos_token_id", "</s>"), ("eos_token_id", [-1]),
        ("max_position_embeddings", None), ("partial_rotary_factor", 2.0), ("head_dim", 5),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_named(model: Path, key: str, value: Any) -> None:
    set_config(model, **{key: value})
    sentence = refused(model)
    assert key in sentence or "dimensions of a head" in sentence


# ---- what can be wrong with the tensors ---------------------------------------------------------


def spoil(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = tiny_checkpoint.tensors()
    change(weights)
    save_file(weights, path / "model.safetensors")


def test_missing_tensors_are_named(model: Path) -> None:
    spoil(model, lambda weights: [weights.pop(n) for n in list(weights) if "layers.1.mlp" in n])
    refused(model, "lacks 3 tensors", "model.layers.1.mlp.up_proj.weight")


def test_unexpected_tensors_are_named(model: Path) -> None:
    extra = {f"model.layers.{n}.self_attn.q_proj.bias": torch.zeros(16) for n in range(2)}
    spoil(model, lambda weights: weights.update(extra))
    refused(model, "holds 2 tensors", "model.layers.0.self_attn.q_proj.bias")


def test_a_tensor_of_the_wrong_shape_is_named(model: Path) -> None:
    spoil(model, lambda weights: weights.update({"model.norm.weight": torch.zeros(17)}))
    refused(model, "model.norm.weight", "[17]", "[16]")


def test_a_tensor_of_integers_is_named(model: Path) -> None:
    spoil(model, lambda weights: weights.update({"model.norm.weight": torch.zeros(16, dtype=torch.int8)}))
    refused(model, "model.norm.weight", "I8", "F32, BF16, F16")


def test_buffers_and_the_copy_of_a_tied_embedding_are_passed_over(model: Path) -> None:
    spoil(model, lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2)}))
    load(model)
    set_config(model, tie_word_embeddings=True)
    load(model)
