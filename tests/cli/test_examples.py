"""The seed's four scripts, as a user starts them."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gllm.config import FrontendConfig

ROOT = Path(__file__).resolve().parent.parent.parent


def run(script: str, *arguments: str, typed: str = "") -> tuple[str, str]:
    """The output of an example that must succeed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *arguments],
        input=typed, capture_output=True, text=True, cwd="/", timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def port(server: str) -> str:
    return str(urlsplit(server).port)


@pytest.mark.parametrize("options", [[], ["--stream"]])
def test_client_prints_the_model_and_a_completion(port: str, options: list[str]) -> None:
    out, _ = run("client.py", "--port", port, *options)
    assert out.startswith("Model: ")
    assert "A robot may not injure a human being" in out


def test_chat_client_keeps_the_history(port: str) -> None:
    typed = "hello there\nhello again\n\\clear\nhello\n\\exit\n"
    out, _ = run("chat_client.py", "--port", port, "--max-tokens", "8", typed=typed)
    assert out.startswith("Model: ")
    assert out.count(">>> ") == 5


@pytest.mark.parametrize("script", ["client.py", "chat_client.py"])
def test_clients_and_server_agree_on_the_default_port(script: str) -> None:
    assert f"(default: {FrontendConfig().port})" in run(script, "--help")[0]


@pytest.mark.parametrize("script", ["client.py", "chat_client.py"])
def test_a_client_without_a_server_says_how_to_start_one(script: str) -> None:
    command = [sys.executable, f"examples/{script}", "--port", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("no server at http://127.0.0.1:1/v1/: start one")


def test_chat_prints_the_statistics_of_the_turn() -> None:
    out, _ = run("chat.py", typed="hello\n\\exit\n")
    assert "#input: " in out
    assert "rate(prefill/decode): " in out


@pytest.mark.parametrize("with_file", [False, True])
def test_batch_inference_prints_the_throughputs(tmp_path: Path, with_file: bool) -> None:
    options = ["--print-output"]
    if with_file:
        options += ["--model-path", str(ROOT / "demo" / "model"), "--gpu-memory-utilization", "0.5"]
        turns = [{"from": "human", "value": "hello there"}, {"from": "gpt", "value": "hello to you"}]
        file = tmp_path / "sharegpt.json"
        file.write_text(json.dumps([{"conversations": turns}, {"conversations": turns[1:]}] * 4))
        options += ["--share-gpt-path", str(file), "--num-prompts", "3"]
    out, _ = run("batch_inference.py", *options)
    lines = out.splitlines()
    assert len([line for line in lines if " -> " in line]) == (3 if with_file else 8)
    assert [line.split(":")[0] for line in lines[-3:]] == [
        "[Throughput(reqs/s)]",
        "[Input tokens throughput(toks/s)]",
        "[Output tokens throughput(toks/s)]",
    ]
