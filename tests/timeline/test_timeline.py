"""The file by its format, and the real processes that write it."""

import json
import shutil
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import serve

from gllm import LLM, SamplingParams
from gllm.launch import LaunchError
from gllm.timeline import Span, Timeline, TimelineError, Trace, check_writable, join

MODEL = Path(__file__).resolve().parent.parent.parent / "demo" / "model"
OPTIONS: dict[str, Any] = {"num_threads": 1, "log_level": "warning", "kv_cache_memory_bytes": "64MiB"}


def check_format(path: Path) -> list[dict[str, Any]]:
    """The blocks of a trace file, after every rule of the format that viewers rely on."""
    held = json.loads(path.read_text())
    assert held["displayTimeUnit"] in ("ms", "ns")
    events = held["traceEvents"]
    blocks = [event for event in events if event["ph"] == "X"]
    names = [event for event in events if event["ph"] == "M"]
    assert len(blocks) + len(names) == len(events)
    assert {event["name"] for event in names} == {"process_name", "thread_name", "thread_sort_index"}
    for event in blocks:
        assert event.keys() >= {"name", "ph", "ts", "dur", "pid", "tid"}, event
        assert type(event["pid"]) is int
        assert type(event["tid"]) is int
        assert event["dur"] >= 0
    assert [event["ts"] for event in blocks] == sorted(event["ts"] for event in blocks)
    assert not blocks or blocks[0]["ts"] == 0
    lanes = {event["tid"]: event["args"]["name"] for event in names if event["name"] == "thread_name"}
    assert {event["tid"] for event in blocks} == lanes.keys()
    return [{**event, "lane": lanes[event["tid"]]} for event in blocks]


def check_worker(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The worker's blocks: one a micro-batch, each planned before it began, none over another."""
    steps = [block for block in blocks if block["lane"] == "worker"]
    for earlier, later in pairwise(steps):
        assert earlier["ts"] + earlier["dur"] <= later["ts"] + 0.001, "microseconds, rounded"
        assert earlier["args"]["step"] < later["args"]["step"]
    planned = {block["args"]["step"]: block["ts"] for block in blocks if block["name"].startswith("schedule")}
    for step in steps:
        assert planned[step["args"]["step"]] <= step["ts"]
        assert step["args"]["forward_ns"] + step["args"]["sample_ns"] == pytest.approx(
            1e3 * step["dur"], abs=2
        )
    return steps


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    spans = [Span("worker", "step 1", 10**15, 10**15 + 2001), Span("scheduler", "a", 10**15 - 999, 10**15)]
    spans.append(Span("worker", "step 2", 10**15 + 2001, 10**15 + 10**9, {"rows": 3}))
    path = tmp_path / "trace.json"
    path.write_text(Trace(spans, 7).to_json())
    check_format(path)
    again = Trace.read(path)
    assert sorted(again.spans, key=repr) == sorted(spans, key=repr)
    assert again.num_dropped == 7


def test_a_process_keeps_its_newest_spans_and_counts_the_others(tmp_path: Path) -> None:
    timeline = Timeline(max_spans=3)
    for number in range(10):
        timeline.add("worker", f"step {number}", number, number + 1, step=number)
    timeline.save(tmp_path, "worker")
    Timeline().save(tmp_path, "scheduler")
    join(tmp_path, str(tmp_path / "trace.json"))
    trace = Trace.read(tmp_path / "trace.json")
    assert [span.name for span in trace.lane("worker")] == ["step 7", "step 8", "step 9"]
    assert trace.num_dropped == 7


def test_a_file_that_is_no_timeline_is_one_sentence(tmp_path: Path) -> None:
    for text in ("", "[]", '{"traceEvents": [{"ph": "X"}]}', '{"otherData": {"clock_origin_ns": 1}}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(TimelineError, match=r"x\.json is no timeline"):
            Trace.read(tmp_path / "x.json")


def test_a_place_that_cannot_be_written_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(TimelineError, match="cannot be written"):
        check_writable(str(tmp_path / "nowhere" / "trace.json"))
    with pytest.raises(LaunchError, match="name another one with --trace-file"):
        LLM(model=MODEL, trace_file=str(tmp_path / "nowhere" / "trace.json"), **OPTIONS)


def test_a_serving_run_writes_all_three_lanes(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    body = {"model": "demo/model", "prompt": "One, two", "max_tokens": 12, "ignore_eos": True}
    with serve("--num-threads", "1", "--trace-file", str(path)) as served:
        for _ in range(2):
            assert httpx.post(f"{served.url}/v1/completions", json=body, timeout=60).status_code == 200
        assert served.stop() == 0
    blocks = check_format(path)
    steps = check_worker(blocks)
    assert len(steps) >= 24
    assert {block["lane"] for block in blocks} == {"frontend", "scheduler", "worker"}
    names = [block["name"].rstrip("0123456789 ") for block in blocks]
    assert names.count("submit") == 2
    assert names.count("step") == names.count("schedule") == names.count("commit")
    assert names.count("process output") >= 24


def share_planned_ahead(blocks: list[dict[str, Any]]) -> float:
    """How many steps, of those behind another one, had their plan sent before that other one ended."""
    sent = {
        block["args"]["step"]: block["ts"] + block["dur"]
        for block in blocks
        if block["name"].startswith("schedule")
    }
    pairs = list(pairwise(block for block in blocks if block["lane"] == "worker"))
    ahead = [sent[later["args"]["step"]] < earlier["ts"] + earlier["dur"] for earlier, later in pairs]
    return sum(ahead) / len(ahead)


@pytest.mark.parametrize("depth", [1, 2])
def test_an_offline_run_writes_it_too_at_any_depth(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "trace.json"
    with LLM(model=MODEL, trace_file=str(path), num_micro_batches=depth, **OPTIONS) as llm:
        llm.generate(["One, two"] * 4, SamplingParams(max_tokens=10, ignore_eos=True))
    blocks = check_format(path)
    assert sum(step["args"]["rows"] for step in check_worker(blocks)) >= 4 * 10
    if depth == 1:
        assert share_planned_ahead(blocks) == 0


def long_steps(path: Path, model: Path) -> list[dict[str, Any]]:
    """The blocks of a run whose steps take many milliseconds: dummy weights, many rows."""
    if not model.exists():
        shutil.copytree(MODEL, model, ignore=shutil.ignore_patterns("*.safetensors"))
        config = json.loads((model / "config.json").read_text())
        sizes = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 16}
        (model / "config.json").write_text(json.dumps(config | sizes))
    with LLM(model=model, load_format="dummy", trace_file=str(path), **OPTIONS) as llm:
        llm.generate(["One"] * 128, SamplingParams(max_tokens=14, ignore_eos=True), use_tqdm=False)
    return check_format(path)


def test_steps_of_a_worker_with_two_plans_in_flight_touch_each_other(tmp_path: Path) -> None:
    """Others on the machine can only add to the time between two steps, and what they add does not grow
    with the step. So steps are long, single ones do not count, and one of three runs is enough. That the
    next plan waits for the worker, and not the worker for it, must hold in each."""
    for number in range(3):
        blocks = long_steps(tmp_path / f"trace-{number}.json", tmp_path / "model")
        assert share_planned_ahead(blocks) > 0.9
        steps = check_worker(blocks)[3:]
        assert statistics.median(step["dur"] for step in steps) > 5_000, "microseconds"
        shares = [
            (later["ts"] - earlier["ts"] - earlier["dur"]) / (later["ts"] - earlier["ts"])
            for earlier, later in pairwise(steps)
        ]
        print(f"idle share of {len(shares)} steps in the median: {statistics.median(shares):.2%}")
        if statistics.median(shares) < 0.02:
            return
    pytest.fail(f"the worker stood idle between its steps in each of three runs, in the last one {shares}")


def test_no_file_and_no_spans_where_none_is_wanted(tmp_path: Path) -> None:
    with LLM(model=MODEL, ipc_dir=str(tmp_path), **OPTIONS) as llm:
        llm.generate(["One"], SamplingParams(max_tokens=3))
        (run_dir,) = tmp_path.iterdir()
    assert not run_dir.exists()
    assert list(tmp_path.iterdir()) == []
