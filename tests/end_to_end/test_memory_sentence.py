"""A model that no machine of ours holds: one sentence with the numbers, before anything is allocated."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LLAMA3_405B = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 16384,
    "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128,
    "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "eos_token_id": 128001,
}  # fmt: skip


def test_serving_a_model_that_is_too_large_ends_with_the_numbers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA3_405B))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "demo/model" / name, tmp_path)
    command = [sys.executable, "-m", "gllm", "serve", str(tmp_path), "--load-format", "dummy", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 1
    sentence = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        r"gllm: model needs 1511\.\d GiB of weights and [\d.]+ GiB for one step of 8192 tokens, but only "
        r"[\d.]+ GiB are free: free some memory, or set dtype to a shorter one",
        sentence,
    ), sentence
