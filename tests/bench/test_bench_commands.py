"""The commands as users type them, against a real server and real engines with the demo model."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import ROOT, serve

from gllm.cli import main, make_parser

MODEL = "demo/model"
SMALL = ["--model-path", MODEL, "--num-threads", "1", "--kv-cache-memory-bytes", "64MiB", "--disable-tqdm"]
COMMAND = ["-m", "gllm", "bench"]
NUMBER = r"\d+\.?\d*"
RESULT_KEYS = """date endpoint_type backend label model_id tokenizer_id num_prompts request_rate burstiness
max_concurrency duration completed failed total_input_tokens total_output_tokens request_throughput
request_goodput output_throughput total_token_throughput max_output_tokens_per_s max_concurrent_requests
avg_latency_ms client_cpu_s run"""
DETAIL_KEYS = "input_lens output_lens ttfts itls latencies start_times generated_texts errors"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve("--num-threads", "1") as served:
        yield served.url


@pytest.fixture
def sharegpt(tmp_path: Path) -> Path:
    path = tmp_path / "share.json"
    turns = [{"from": "human", "value": "What colour is the sky?"}, {"from": "gpt", "value": "It is blue."}]
    path.write_text(json.dumps([{"conversations": turns}] * 10))
    return path


def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code, done.stderr
    return done


def value(printed: str, label: str) -> float:
    found = re.search(rf"^{re.escape(label)} +({NUMBER}) *$", printed, re.MULTILINE)
    assert found, printed
    return float(found[1])


def test_serve_measures_a_server_and_saves_what_it_saw(url: str, tmp_path: Path) -> None:
    options = """--num-prompts 16 --random-input-len 24 --random-output-len 8 --max-concurrency 4
        --num-warmups 2 --request-rate 100 --goodput ttft:60000 e2el:60000 --label here
        --percentile-metrics ttft,tpot,itl,e2el --metric-percentiles 50,99 --metadata run=7
        --save-result --save-detailed --disable-tqdm"""
    done = run(*COMMAND, "serve", "--base-url", url, *options.split(), "--result-dir", str(tmp_path))
    assert value(done.stdout, "Successful requests:") == 16
    assert value(done.stdout, "Failed requests:") == 0
    assert value(done.stdout, "Maximum request concurrency:") == 4
    assert value(done.stdout, "Total input tokens:") == 16 * 24
    assert value(done.stdout, "Total generated tokens:") == 16 * 8
    assert value(done.stdout, "Request goodput (req/s):") == value(done.stdout, "Request throughput (req/s):")
    assert value(done.stdout, "Avg latency (ms):") == value(done.stdout, "Mean E2EL (ms):")
    assert re.search(r"^client: .* s of CPU time", done.stderr, re.MULTILINE)
    (path,) = tmp_path.iterdir()
    assert re.fullmatch(r"here-100qps-concurrency4-model-\d{8}-\d{6}\.json", path.name)
    result: dict[str, Any] = json.loads(path.read_text())
    statistics = {f"{k}_{m}_ms" for k in ("mean", "median", "std", "p50", "p99") for m in
                  ("ttft", "tpot", "itl", "e2el")}  # fmt: skip
    assert result.keys() == {*RESULT_KEYS.split(), *DETAIL_KEYS.split(), *statistics}
    assert (result["model_id"], result["backend"], result["run"]) == (MODEL, "gllm", "7")
    assert result["output_lens"] == [8] * 16
    assert all(1 <= len(itls) + 1 <= 8 for itls in result["itls"])
    assert all(
        0 < ttft <= latency for ttft, latency in zip(result["ttfts"], result["latencies"], strict=True)
    )
    assert result["start_times"] == sorted(result["start_times"])


def test_the_first_gllm_s_serving_script_takes_its_options(url: str, sharegpt: Path) -> None:
    port = url.rpartition(":")[2]
    options = f"""--backend vllm --model {MODEL} --dataset-name sharegpt --dataset-path {sharegpt}
        --num-prompt 4 --port {port} --trust-remote-code --request-rate 50 --sharegpt-output-len 5"""
    done = run("bench/benchmark_serving.py", *options.split())
    assert value(done.stdout, "Successful requests:") == 4
    assert value(done.stdout, "Request rate configured (RPS):") == 50
    assert value(done.stdout, "Total generated tokens:") <= 20
    assert "4/4" in done.stderr, "a progress bar"


def test_chats_and_traces_are_served_too(url: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    rows = [{"t": 0.2 * n, "in": 20 + n, "out": 4, "b": [0, n + 1]} for n in range(5)]
    trace.write_text("\n".join(map(json.dumps, [{"trace": "t", "block": 16}, *rows])))
    base = ["serve", "--base-url", url, "--disable-tqdm"]
    options = ["--dataset-name", "trace", "--dataset-path", str(trace)]
    done = run(*COMMAND, *base, *options, "--trace-time-scale", "0.5", "--trace-length-divisor", "2")
    assert value(done.stdout, "Total input tokens:") == sum(row // 2 for row in range(20, 25))
    assert value(done.stdout, "Total generated tokens:") == 10
    assert 0.4 <= value(done.stdout, "Benchmark duration (s):") < 5
    chat = ["--backend", "openai-chat", "--dataset-name", "prefix_repetition", "--num-prompts", "4"]
    sizes = ["--prefix-repetition-num-prefixes", "2", "--prefix-repetition-prefix-len", "8"]
    done = run(*COMMAND, *base, *chat, *sizes, "--output-len", "3")
    assert value(done.stdout, "Successful requests:") == 4


def test_requests_that_the_server_refuses_are_failures(url: str) -> None:
    options = "--num-prompts 2 --random-input-len 4000 --disable-tqdm"
    done = run(*COMMAND, "serve", "--base-url", url, *options.split(), code=1)
    assert value(done.stdout, "Failed requests:") == 2
    assert "2 requests failed: 400 Bad Request: This model's maximum context length is 2048" in done.stderr


def test_throughput_prints_its_lines_and_saves_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    sizes = ["--num-prompts", "6", "--input-len", "16", "--output-len", "8", "--output-json", str(path)]
    done = run(*COMMAND, "throughput", *SMALL, *sizes)
    first, prompts, outputs, *where = done.stdout.splitlines()
    assert re.fullmatch(
        rf"Throughput: {NUMBER} requests/s, {NUMBER} total tokens/s, {NUMBER} output tokens/s", first
    )
    assert prompts.split(":") == ["Total num prompt tokens", f"  {6 * 16}"]
    assert outputs.split(":") == ["Total num output tokens", f"  {6 * 8}"]
    result = json.loads(path.read_text())
    assert list(result) == [
        "elapsed_time", "num_requests", "total_num_tokens", "requests_per_second", "tokens_per_second",
        "output_tokens_per_second", "backend", "date", "model", "micro_batches", "latency_breakdown",
    ]  # fmt: skip
    assert [line.split("  ")[1] for line in where[1:]] == [
        "model forward", "sample", "idle (no micro-batch)", "schedule", "process output",
    ]  # fmt: skip
    found = result["latency_breakdown"]
    model_s = found["parts_s"]["model forward"] + found["parts_s"]["sample"]
    assert model_s + found["idle_s"] == pytest.approx(found["total_s"])
    assert found["total_s"] == pytest.approx(result["elapsed_time"])
    for part in ("schedule", "process output"):
        assert 0 <= found["overlapped_s"][part] <= found["parts_s"][part] > 0
    assert (result["num_requests"], result["total_num_tokens"]) == (6, 6 * 24)
    assert result["requests_per_second"] == pytest.approx(6 / result["elapsed_time"])


def test_the_first_gllm_s_throughput_script_takes_its_options(sharegpt: Path) -> None:
    options = f"""--model {MODEL} --dataset {sharegpt} --num-prompt 3 --backend gllm --trust-remote-code
        --gpu-memory-utilization 0.1 --num-threads 1 --disable-tqdm"""
    done = run("bench/benchmark_throughput.py", *options.split())
    assert done.stdout.startswith("Throughput: ")


def test_transformers_is_a_backend() -> None:
    sizes = "--backend hf --hf-max-batch-size 2 --num-prompts 3 --input-len 8 --output-len 4"
    done = run(*COMMAND, "throughput", *SMALL, *sizes.split())
    assert "Total num prompt tokens:  24\nTotal num output tokens:  12\nLatency breakdown" in done.stdout
    shares = {line[2:24].strip(): float(line[34:42]) for line in done.stdout.splitlines()[-5:]}
    assert shares["model forward"] + shares["sample"] + shares["idle (no micro-batch)"] == pytest.approx(
        100, abs=0.2
    )
    assert shares["sample"] > 0 and shares["model forward"] > shares["schedule"]  # noqa: PT018


def test_latency_prints_its_lines_and_saves_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    sizes = "--batch-size 2 --input-len 8 --output-len 4 --num-iters 3 --num-iters-warmup 1"
    done = run(*COMMAND, "latency", *SMALL, *sizes.split(), "--output-json", str(path))
    first, *rest = done.stdout.splitlines()
    assert re.fullmatch(rf"Avg latency: {NUMBER}(e-\d+)? seconds", first)
    assert [line.split(":")[0] for line in rest] == [
        f"{point}% percentile latency" for point in (10, 25, 50, 75, 90, 99)
    ]
    assert all(line.endswith(" seconds") for line in rest)
    result = json.loads(path.read_text())
    assert list(result) == ["avg_latency", "latencies", "percentiles"]
    assert len(result["latencies"]) == 3
    assert list(result["percentiles"]) == ["10", "25", "50", "75", "90", "99"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("throughput demo/model --backend vllm --num-prompts 1", "pip install vllm"),
        ("throughput demo/model --backend hf --num-prompts 1", "--hf-max-batch-size"),
        ("throughput demo/model --dataset-name sharegpt", "--dataset-path"),
        ("throughput demo/model --num-prompts 0", "--num-prompts is 0"),
        (
            "throughput demo/model --dataset-name prefix_repetition --prefix-repetition-suffix-len -1",
            "-1 tokens",
        ),
        ("latency demo/model --batch-size 0", "--batch-size is 0"),
        ("latency", "no model is given"),
        ("serve --goodput speed:3", "METRIC:MS"),
        ("serve --percentile-metrics ttft,latency", "--percentile-metrics latency"),
        ("serve --metric-percentiles 101", "numbers of 0 to 100"),
        ("serve --max-concurrency 0", "--max-concurrency is 0"),
        ("serve --metadata x", "KEY=VALUE"),
        ("serve --model no/such --port 1", "--tokenizer DIR"),
        ("serve --model demo/model --port 1 --request-rate 0", "request rate is 0"),
        ("serve --model demo/model --num-promts 3", "did you mean --num-prompts?"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(
    arguments: str, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(sys.modules, "vllm", None)  # as if it were not installed
    code: object
    try:
        code = main(["bench", *arguments.split()])
    except SystemExit as ending:  # of the parser
        code = ending.code
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert sentence in printed.err
    assert printed.err.startswith("gllm")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("command", ["serve", "throughput"])
@pytest.mark.parametrize("spelling", ["--num-prompts", "--num-prompt", "--num_prompts", "--num_prompt"])
def test_both_spellings_of_the_number_of_prompts_are_known(command: str, spelling: str) -> None:
    assert make_parser().parse_args(["bench", command, spelling, "6"]).num_prompts == 6


def test_no_server_is_one_sentence_and_code_1() -> None:
    done = run(*COMMAND, "serve", "--port", "1", code=1)
    assert "no answer from http://127.0.0.1:1" in done.stderr
