"""`gllm batch`: JSONL in, JSONL out, in order, whatever a line holds."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent.parent
FLAGS = ["--num-threads", "1", "--kv-cache-memory-bytes", "64MiB", "--log-level", "warning"]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def line(custom_id: str, url: str = COMPLETIONS, method: str = "POST", **body: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": method, "url": url, "body": {"model": "m", **body}})


def run(model: str, text: str, tmp_path: Path) -> tuple[list[dict[str, Any]], str]:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(text)
    command = [sys.executable, "-m", "gllm", "batch", "-i", str(source), "-o", str(target), model, *FLAGS]
    command += ["--served-model-name", "m", "--max-num-queued-reqs", "4"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(answer) for answer in target.read_text().splitlines()], done.stderr


def test_each_line_has_its_answer_or_its_error_in_order(model: str, server: str, tmp_path: Path) -> None:
    greedy = {"temperature": 0, "max_tokens": 4, "ignore_eos": True}
    messages = [{"role": "user", "content": "hello"}]
    lines = [
        line("long", prompt="one two", **greedy | {"max_tokens": 40}),
        line("chat", CHAT, messages=messages, **greedy),
        "{this is no JSON",
        "",
        '["no object"]',
        json.dumps({"method": "POST", "url": CHAT, "body": {}}),
        line("long", prompt="again", **greedy),
        line("embeddings", "/v1/embeddings", input="x"),
        line("get", method="GET", prompt="x"),
        line("stream", prompt="x", stream=True),
        line("hot", prompt="x", temperature=9),
        line("other", CHAT, messages=messages).replace('"m"', '"another-model"'),
        line("several", prompt=["one", "two", "three"], **greedy),
        *(line(f"many {index}", prompt=f"number {index}", **greedy) for index in range(20)),
    ]
    answers, errors = run(model, "\n".join(lines), tmp_path)
    assert len(answers) == len(lines) - 1, "only the empty line has no answer"
    by_id = {answer["custom_id"]: answer for answer in answers if answer["response"] is not None}
    problems = {
        answer["error"]["message"].split(":")[0]: answer for answer in answers if answer["error"] is not None
    }

    assert [answer["custom_id"] for answer in answers[-20:]] == [f"many {index}" for index in range(20)]
    assert all(answer["response"]["status_code"] == 200 for answer in answers[-21:])
    assert len({answer["id"] for answer in answers}) == len(answers)

    chat = by_id["chat"]["response"]
    assert chat["body"]["object"] == "chat.completion"
    assert chat["request_id"]
    name = httpx.get(f"{server}/v1/models").json()["data"][0]["id"]
    served = httpx.post(server + CHAT, json={"model": name, "messages": messages, **greedy}).json()
    assert chat["body"]["choices"] == served["choices"], "the answer is the server's"

    assert by_id["long"]["response"]["body"]["usage"]["completion_tokens"] == 40
    assert len(by_id["several"]["response"]["body"]["choices"]) == 3
    assert by_id["hot"]["response"]["status_code"] == 400
    assert by_id["hot"]["response"]["body"]["error"]["param"] == "temperature"
    assert by_id["other"]["response"]["status_code"] == 404

    for number, words in {
        3: "it is not JSON",
        5: "JSON object",
        6: "custom_id is missing",
        7: "'long' is already that of line 1",
        8: "url is '/v1/embeddings', expected /v1/chat/completions or /v1/completions",
        9: "method is 'GET'",
        10: "stream is not possible",
    }.items():
        answer = problems[f"line {number}"]
        assert words in answer["error"]["message"]
        assert answer["response"] is None
    assert f"{len(answers) - 9} answered, 9 refused" in errors


def test_an_input_is_not_overwritten_by_its_output(model: str, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("precious")
    command = [sys.executable, "-m", "gllm", "batch", "-i", str(source), "-o", str(source), model]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert "is the input" in done.stderr
    assert source.read_text() == "precious"
