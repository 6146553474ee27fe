"""`gllm inspect` on a checkpoint of every family, with transformers as witness of the numbers."""

import json
from pathlib import Path

import chatglm_by_hand
import pytest
from oracle import SHAPES, random_model, write
from tokenizers import Tokenizer, decoders, models

from gllm.config import from_options
from gllm.inspect_model import WIDTH, inspect
from gllm.kernels.native.library import library


def add_text(path: Path, num_tokens: int = 60) -> None:
    backend = Tokenizer(models.BPE(vocab={chr(65 + i): i for i in range(num_tokens)}, merges=[]))
    backend.decoder = decoders.ByteLevel()
    backend.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}"}))


def told(path: Path, capsys: pytest.CaptureFixture[str], **options: object) -> tuple[int, dict[str, str]]:
    """The exit code, and what was printed by name."""
    code = inspect(from_options(model=str(path), **options))
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == str(path)
    return code, {line[2 : 2 + WIDTH].strip(): line[3 + WIDTH :] for line in lines}


@pytest.mark.parametrize("name", SHAPES)
def test_numbers_of_every_family_are_those_of_transformers(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = random_model(name)
    add_text(write(model, tmp_path))
    code, said = told(tmp_path, capsys, dtype="float16")
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_bytes = 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim
    assert code == 0
    assert said["architecture"] == type(model).__name__
    assert said["parameters"] == f"{model.num_parameters():,}, stored as F32"
    assert said["weights"].endswith("in float16")
    assert said["KV cache"] == f"{kv_bytes / 1024:g} KiB a token"
    assert said["stop ids"] == ("none" if config.eos_token_id is None else "2")
    assert (said["tokenizer"], said["chat template"], said["runs here"]) == ("60 tokens", "yes", "yes")


@pytest.mark.skipif(library() is None, reason="torch's operators keep all weights in one dtype")
def test_weights_are_told_as_they_will_be_kept(capsys: pytest.CaptureFixture[str]) -> None:
    # 3 440 640 elements and 11 520 rows in the layers' matrices; an embedding of 262 144 that is kept twice.
    for quantization, weights in (
        ("none", "8.6 MiB in bfloat16, float32"), ("int8", "5.3 MiB in int8, float32")
    ):  # fmt: skip
        code, said = told(Path("demo/model"), capsys, quantization=quantization)
        assert (code, said["weights"]) == (0, weights)


def test_chatglm_in_its_original_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = chatglm_by_hand.CONFIG | {"rope_ratio": 500}
    weights = chatglm_by_hand.random_weights(config)
    add_text(chatglm_by_hand.write(tmp_path, config, weights))
    code, said = told(tmp_path, capsys)
    assert (code, said["runs here"]) == (0, "yes")
    assert said["parameters"] == f"{sum(w.numel() for w in weights.values()):,}, stored as F32"
    assert said["stop ids"] == "2, 64795, 64797"
    assert said["context"] == "256 tokens"


def test_what_stands_in_the_way_is_told_with_what_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(random_model("llama3"), tmp_path)
    code, said = told(tmp_path, capsys)
    assert code == 1
    assert "no tokenizer.json" in said["runs here"]
    add_text(tmp_path)
    code, said = told(tmp_path, capsys, max_model_len=1000)
    assert (code, said["context"]) == (1, "256 tokens")
    assert said["runs here"].startswith("no: max_model_len is 1000, but the checkpoint was made for 256")
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["MambaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, said = told(tmp_path, capsys)
    assert (code, said["architecture"]) == (1, "MambaForCausalLM")
    assert "'MambaForCausalLM' is not known" in said["runs here"]


def test_a_tokenizer_that_knows_more_than_the_model_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocab_size = SHAPES["llama3"].vocab_size
    add_text(write(random_model("llama3"), tmp_path), vocab_size)
    assert told(tmp_path, capsys)[0] == 0
    add_text(tmp_path, vocab_size + 1)
    code, said = told(tmp_path, capsys)
    assert code == 1
    assert f"knows {vocab_size + 1} tokens, but the model has rows for {vocab_size} only" in said["runs here"]


def test_caveats_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "architectures": ["GlmForCausalLM"], "vocab_size": 500, "hidden_size": 64, "intermediate_size": 80,
        "num_hidden_layers": 40, "num_attention_heads": 2, "num_key_value_heads": 1, "rope_theta": 10000.0,
        "max_position_embeddings": 131072,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    add_text(tmp_path)
    code, said = told(tmp_path, capsys, load_format="dummy")
    assert code == 0
    assert "try --rope-theta 5e+06" in said["beware"]
    _, said = told(tmp_path, capsys, load_format="dummy", rope_theta=5e6)
    assert "beware" not in said
