"""The driver of the comparison with a real engine, a peer that fails, and the table of made-up lines."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from served import ROOT

from bench.compare import read
from bench.peers.report import rows, table
from bench.peers.workload import OUTPUT_LEN, prompt_lengths, requests


def test_the_workload_is_the_one_whose_lengths_are_published() -> None:
    lengths = prompt_lengths(64)
    assert (sum(lengths), min(lengths), max(lengths)) == (10240, 29, 512)
    first, again, other = (requests("offline", round_, 32000) for round_ in ("0", "0", "1"))
    assert first == again != other
    assert [len(one.prompt) for one in first] == [len(one.prompt) for one in other] == lengths
    assert {one.num_output_tokens for one in first} == {OUTPUT_LEN}
    assert all(16 <= token < 32000 for one in first for token in one.prompt)
    (decode,), (prefill,) = requests("decode", "0", 600), requests("prefill", "0", 600)
    assert (len(decode.prompt), decode.num_output_tokens) == (32, 128)
    assert (len(prefill.prompt), prefill.num_output_tokens) == (1024, 1)


@pytest.fixture
def peers(tmp_path: Path) -> Path:
    """A folder as the installer makes it: our demo model, and a peer whose library is broken."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "float32").symlink_to(ROOT / "demo" / "model")
    python = tmp_path / "vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho no kernels for this machine >&2\nexit 3\n")
    python.chmod(0o755)
    return tmp_path


def compare(peers: Path, out: Path, *options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "bench.compare",
        "--peers",
        str(peers),
        "--out",
        str(out),
        "--rounds",
        "1",
    ]
    sizes = ["--num-requests", "2", "--num-threads", "1", "--dtypes", "float32", "--max-wait", "0", *options]
    done = subprocess.run([*command, *sizes], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code, done.stderr
    return done


def test_one_run_measures_who_works_says_who_does_not_and_goes_on_where_it_stopped(peers: Path) -> None:
    out = peers / "out.jsonl"
    done = compare(peers, out, "--counts", "1")
    assert "openvino/float32 is not installed" in done.stderr
    failure = next(line for line in read(out) if "failure" in line)
    assert failure["engine"] == "vllm"
    assert "exit code 3" in failure["failure"]
    assert "no kernels for this machine" in failure["failure"]
    ours = [line for line in read(out) if line.get("engine") == "gllm"]
    assert [(line["kind"], line.get("count")) for line in ours] == [
        ("start", None), ("decode", 1), ("prefill", 1), ("offline", 2), ("offline", 1),
    ]  # fmt: skip
    assert all(line["peak_bytes"] > 2**26 for line in ours[1:])
    assert ours[3]["num_output_tokens"] == 2 * OUTPUT_LEN
    assert "gllm 0.1.0" in done.stdout
    assert "failed: ended with exit code 3" in done.stdout

    refused = compare(peers, out, code=2)
    assert "go on with --resume" in refused.stderr
    before = len(read(out))
    compare(peers, out, "--counts", "1", "--resume", "--engines", "gllm")
    assert len(read(out)) == before + 1, "its header only: all else was measured"


def line(engine: str, kind: str, seconds: float, round_: str = "0", **more: Any) -> dict[str, Any]:
    return {
        "engine": engine, "dtype": "float32", "kind": kind, "round": round_, "count": 2, "seconds": seconds,
        "num_prompt_tokens": 100, "num_output_tokens": 50, "first_tokens": [1, 2], "digests": ["a", "b"],
        "peak_bytes": 2**30, "foreign_cores": 0.0, **more,
    }  # fmt: skip


def test_the_table_has_medians_spread_and_ratios() -> None:
    start = {"dtype": "float32", "kind": "start", "version": "1.0 (build 3)", "ready_s": 1.0}
    lines = [{"date": "today"}, {"engine": "gllm", **start, "first_token_s": 2.0}]
    lines += [line("gllm", "offline", seconds, str(round_)) for round_, seconds in enumerate((1.0, 2.0, 0.5))]
    lines.append({"engine": "vllm", **start, "first_token_s": 8.0})
    lines.append(line("vllm", "offline", 1.25, digests=["a", "x"], peak_bytes=2**31, foreign_cores=0.4))
    lines.append(line("vllm", "decode", 1.0) | {"count": 1})
    ours, theirs = rows(lines)
    assert (ours.median("offline", 2), theirs.median("offline", 2)) == (50.0, 40.0)
    head, first, second, best, each, *_ = (" ".join(one.split()) for one in table(lines))
    assert head == "float32 offline, 2 requests decode prefill start memory others equal"
    assert first == "gllm 1.0 50.0 [25.0, 100.0] - - 2.0 1024 0.00 2/2"
    assert second == "vllm 1.0 40.0 [40.0, 40.0] 50.0 [50.0, 50.0] - 8.0 2048 0.40 1/2"
    assert best == "ours / best peer 1.25 - - 0.25 0.50"
    assert each == "ours / vllm 1.25 - -"
    lines.append({"engine": "gllm f32 math", **start, "first_token_s": 1.0})
    lines.append(line("gllm f32 math", "offline", 0.5))
    *_, best, each, widened, widened_each, blank = (" ".join(one.split()) for one in list(table(lines))[:9])
    assert (best, each) == ("ours / best peer 1.25 - - 0.25 0.50", "ours / vllm 1.25 - -"), (
        "others' best alone"
    )
    assert widened == "f32 math / best peer 2.50 - - 0.12 0.50"
    assert (widened_each, blank) == ("ours / gllm f32 math 0.50 - -", "")


def test_a_line_of_the_file_is_a_json_object(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(line("gllm", "decode", 1.0)) + "\n")
    assert read(tmp_path / "x.jsonl")[0]["kind"] == "decode"
    assert read(tmp_path / "none.jsonl") == []
