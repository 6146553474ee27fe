"""The command from flags to table, JSON and picture."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_up import costs

from gllm.config import FlagParser
from gllm.simulate.command import add_simulate, simulate


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A trace of short talks, a cost file, and the flags that name them."""
    rows: list[dict[str, Any]] = [{"trace": "small", "block": 16}]
    rows += [
        {"t": 0.05 * i, "in": 40 + i % 7, "out": 1 + i % 9, "b": [i % 4, 100 + i, 200 + i]} for i in range(60)
    ]
    (tmp_path / "small.jsonl").write_text("\n".join(map(json.dumps, rows)))
    costs().save(tmp_path / "costs.json")
    return ["--trace", str(tmp_path / "small.jsonl"), "--cost", str(tmp_path / "costs.json")]


def run(*words: str) -> int:
    parser = FlagParser(prog="gllm simulate")
    add_simulate(parser)
    return simulate(parser.parse_args(words))


def test_a_trace_gives_the_table(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*files) == 0
    shown = capsys.readouterr().out
    assert f"{'Successful requests:':<40} 60" in shown
    assert "Speed-up over real time:" in shown


def test_json_has_every_answer(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--goodput", "ttft:50", "tpot:8", "--find-rate", "--find-budget", "64,128", "--rates", "5,1"]
    assert run(*files, "--json", "--num-prompts", "50", "--rate-scale", "2", *asked) == 0
    answers = json.loads(capsys.readouterr().out)
    assert answers["run"]["completed"] == 50
    assert [figures["request_rate"] for figures in answers["curve"]] == pytest.approx([1.0, 5.0])
    assert [figures["max_num_batched_tokens"] for figures in answers["budgets"]] == [64, 128]
    assert answers["best_max_num_batched_tokens"] in (64, 128)
    assert answers["highest_rate"] > 0
    assert answers["run"]["slo_attainment"] <= 1.0


def test_the_same_question_has_the_same_answer(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for _ in range(2):
        assert run(*files, "--json", "--request-rate", "30", "--max-num-seqs", "4") == 0
        answers.append(json.loads(capsys.readouterr().out)["run"])
        del answers[-1]["wall_s"], answers[-1]["speed_up"]
    assert answers[0] == answers[1]


def test_the_curve_is_drawn(files: list[str], tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    assert run(*files, "--goodput", "ttft:50", "--plot", str(picture)) == 0
    raw = picture.read_bytes()
    assert raw.startswith(b"\x89PNG")
    assert len(raw) > 10_000


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--find-rate"], "--find-rate needs the SLO"),
        (["--goodput", "ttft"], "'ttft' is no bound"),
        (["--num-prompts", "0"], "--num-prompts is 0"),
        (["--length-divisor", "3"], "cannot be divided by 3"),
        (["--max-model-len", "9999"], "made for 4096"),
        (["x.yaml", "--config", "y.yaml"], "two configuration files"),
    ],
)
def test_a_mistake_is_one_sentence(
    files: list[str], words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*files, *words) == 2
    assert sentence in capsys.readouterr().err


def test_a_missing_file_is_named(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--trace", "nowhere.gz", *files[2:]) == 1
    assert "nowhere.gz: No such file" in capsys.readouterr().err


def test_the_flags_cost_no_numpy_and_the_simulator_no_torch() -> None:
    code = "import sys, gllm.simulate.command; print('numpy' in sys.modules, end=' ')\n"
    code += "import gllm.simulate.answers; print({'torch', 'zmq', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False set()"
