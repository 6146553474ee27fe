"""Peak memory while a sharded checkpoint is loaded, as a multiple of what is kept of the weights.

    python -m bench.load_memory [--json] [--gigabytes 2] [--dtypes bfloat16 float32]

Writes a bfloat16 checkpoint of that size (shapes of a small Llama 3, five shards, tensors in random
order) into a temporary directory and loads it in a fresh process for each dtype. Peak is the process's
high-water mark of resident memory, less what it had when its libraries were imported. What is kept is
the memory plan's figure: matrices stay in 16 bits where the operators widen them as they read them.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HIDDEN, NUM_SHARDS = 2048, 5
LAYER_BYTES = 2 * (HIDDEN * (HIDDEN + 2 * 512) + HIDDEN * HIDDEN + 3 * HIDDEN * 8192)
DTYPES = ("bfloat16", "float16", "float32")


def write_checkpoint(path: Path, num_bytes: int) -> int:
    """A checkpoint of about `num_bytes`; returns the bytes of its tensors."""
    import torch
    from safetensors.torch import save_file

    from gllm.checkpoint import open_checkpoint
    from gllm.worker.models import family_of, read_architecture
    from gllm.worker.weights import place_tensors

    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN, "intermediate_size": 8192,
        "num_hidden_layers": max(1, round((num_bytes - 2 * 2 * 32000 * HIDDEN) / LAYER_BYTES)),
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 32000,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "eos_token_id": 2,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    facts = read_architecture(open_checkpoint(path, weights=False))
    shapes = facts.parameter_shapes()
    names = family_of("LlamaForCausalLM").names
    places = list(place_tensors(names, facts.num_layers, shapes, facts.row_ranges()).items())
    random.Random(0).shuffle(places)
    weight_map: dict[str, str] = {}
    for shard in range(NUM_SHARDS):
        file = f"model-{shard + 1:05}-of-{NUM_SHARDS:05}.safetensors"
        part = places[shard::NUM_SHARDS]
        save_file(
            {
                name: torch.full((place.end - place.start, *shapes[place.parameter][1:]), 0.01).bfloat16()
                for name, place in part
            },
            path / file,
        )
        weight_map |= {name: file for name, _ in part}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return 2 * facts.num_parameters()


def resident_bytes(key: str) -> int:
    """VmRSS or VmHWM of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def load_here(path: Path, dtype: str) -> dict[str, int]:
    """Load the checkpoint in this process and say what it took."""
    import time

    import torch

    from gllm.checkpoint import open_checkpoint
    from gllm.kernels.dispatch import operators
    from gllm.worker.look_through import Model
    from gllm.worker.models import load_model
    from gllm.worker.platform import platform_of

    torch.set_num_threads(1)
    chosen, platform, checkpoint = getattr(torch, dtype), platform_of("cpu"), open_checkpoint(path)
    ops = operators(platform.backend, chosen)
    before, began = resident_bytes("VmRSS"), time.monotonic()
    model = load_model(checkpoint, chosen, platform.device, ops)
    seconds = time.monotonic() - began
    peak, after = resident_bytes("VmHWM"), resident_bytes("VmRSS")
    planned = Model(checkpoint, model.facts, platform, chosen, dummy=False, quantized=False)
    return {
        "kept": planned.weight_bytes(),
        "peak": peak - before, "after": after - before, "milliseconds": round(1e3 * seconds),
    }  # fmt: skip


def measure(gigabytes: float, dtypes: list[str]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        stored = write_checkpoint(path, int(gigabytes * 1e9))
        found = []
        for dtype in dtypes:
            command = [sys.executable, "-m", "bench.load_memory", "--load", str(path), "--dtypes", dtype]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
            row = json.loads(done.stdout)
            found.append({"dtype": dtype, "stored": stored, **row, "ratio": row["peak"] / row["kept"]})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], choices=DTYPES)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load is not None:
        print(json.dumps(load_here(given.load, given.dtypes[0])))
        return
    rows = measure(given.gigabytes, given.dtypes)
    if given.json:
        print(json.dumps(rows))
        return
    print("| dtype | stored GB | kept GB | peak GB | peak / kept | seconds |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        stored, kept, peak = (row[key] / 1e9 for key in ("stored", "kept", "peak"))
        print(
            f"| {row['dtype']} | {stored:.2f} | {kept:.2f} | {peak:.2f} | {row['ratio']:.3f} "
            f"| {row['milliseconds'] / 1e3:.1f} |"
        )


if __name__ == "__main__":
    main()
