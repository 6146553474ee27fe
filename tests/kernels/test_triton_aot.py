"""Every kernel as the worker launches it, compiled for real architectures; and the device script, run dry."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNELS = {
    "add_rms_norm_rows",
    "add_values",
    "attend_splits",
    "attend_tiles",
    "ban_last_tokens",
    "count_pairs",
    "draw",
    "expert_inner",
    "expert_outer",
    "find_highest",
    "greedy_rows",
    "list_highest",
    "list_likely",
    "mask_logits",
    "merge_highest",
    "merge_splits",
    "multiply_few_rows",
    "norm_heads_rows",
    "penalize_logits",
    "place_pairs",
    "rms_norm_rows",
    "rotary_write_heads",
    "silu_mul_blocks",
    "sum_experts",
    "weigh_parts",
    "weigh_rows",
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a child, whose triton does not interpret unless it asks to."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_every_kernel_compiles_within_the_limits_of_the_chip(arch: int) -> None:
    done = run("bench.aot", "--json", "--arch", str(arch))
    assert done.returncode == 0, done.stderr
    compiled = [json.loads(line) for line in done.stdout.splitlines()]
    assert {item["kernel"] for item in compiled} == KERNELS
    assert all(item["cubin"] > 0 and item["arch"] == arch for item in compiled)


def test_the_device_script_runs_dry(tmp_path: Path) -> None:
    done = run("bench.device_check", "--dry-run", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in (tmp_path / "device_check.jsonl").read_text().splitlines()]
    assert not [record for record in records if record["record"] == "error"]
    assert {"ceiling", "correctness", "timing", "tuning"} <= {record["record"] for record in records}
