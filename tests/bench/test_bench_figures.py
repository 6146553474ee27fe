"""Figures of made-up results: what is found, what is drawn, what is said where something is missing."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from gllm.bench import drawing
from gllm.bench.results import WITHOUT_PIPE, Results, depth, idle_share, read_results
from gllm.cli import main
from gllm.timeline import Span, Trace

MS = 10**6
NAMES = ("offline-throughput", "latency-breakdown", "latency-over-rate", "pipeline")


def trace(plans: int) -> Trace:
    """Steps of 10 ms with 1 ms between them; plan k is made when step k - plans has ended."""
    spans = []
    for step in range(20):
        start = 11 * MS * (step + 1)
        planned = max(start - 11 * MS * (plans - 1) - MS // 2, 0)
        args = {"step": step}
        spans.append(Span("worker", f"step {step}", start, start + 10 * MS, args))
        spans.append(Span("scheduler", f"schedule {step}", planned, planned + 1000, args))
        end = start + 10 * MS
        spans.append(Span("scheduler", f"commit {step}", end + 1000, end + 2000, args))
        spans.append(Span("frontend", "process output", end + 3000, end + 4000, {"tokens": 1}))
    return Trace(spans)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines: list[dict[str, Any]] = [{"date": "today"}]
    for engine, factor in (("gllm", 2.0), ("vllm", 1.0)):
        for count in (4, 64):
            for round_, seconds in enumerate((1.0, 3.0, 2.0)):
                lines.append({
                    "engine": engine, "dtype": "float32", "kind": "offline", "round": str(round_),
                    "count": count, "num_output_tokens": 100 * factor, "seconds": seconds,
                })  # fmt: skip
    lines.append(lines[-1] | {"dtype": "bfloat16", "seconds": 0.001})
    (tmp_path / "compare.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    breakdown = {
        "total_s": 10.0, "idle_s": 0.5,
        "parts_s": {"model forward": 9.0, "sample": 0.5, "schedule": 0.2, "process output": 0.4},
        "overlapped_s": {"schedule": 0.1, "process output": 0.4},
    }  # fmt: skip
    for backend, plans in (("gllm", 2), ("gllm", 1), ("hf", 2)):
        saved = {"backend": backend, "micro_batches": plans, "latency_breakdown": breakdown}
        (tmp_path / f"throughput-{backend}-{plans}.json").write_text(json.dumps(saved))
    for engine in ("gllm", WITHOUT_PIPE, "vllm"):
        for rate in (1.0, 4.0):
            result = {
                "backend": "openai",
                "engine": engine,
                "request_rate": rate,
                "avg_latency_ms": 100 * rate,
            }
            (tmp_path / f"serve-{engine}-{rate:g}.json").write_text(json.dumps(result, indent=1))
    for plans in (1, 2):
        (tmp_path / f"timeline-{plans}.json").write_text(trace(plans).to_json())
    (tmp_path / "other.json").write_text("[1, 2]")
    (tmp_path / "broken.json").write_text("{")
    return tmp_path


def test_results_are_found_by_what_is_in_them(folder: Path) -> None:
    found = read_results(folder)
    assert found.offline == {"gllm": {4: 100.0, 64: 100.0}, "vllm": {4: 50.0, 64: 50.0}}
    assert set(found.breakdowns) == {"gllm", WITHOUT_PIPE, "transformers"}
    assert found.latencies["gllm"] == {1.0: 0.1, 4.0: 0.4}
    assert set(found.traces) == {1, 2}
    assert read_results(folder, "bfloat16").offline == {"vllm": {64: 100_000.0}}


@pytest.mark.parametrize("plans", [1, 2])
def test_depth_and_idle_share_are_those_of_the_timeline(plans: int) -> None:
    assert depth(trace(plans)) == plans
    assert idle_share(trace(plans)) == pytest.approx(19 / (19 * 11 + 10))


def test_the_command_draws_all_four_in_both_formats(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures"
    assert main(["bench", "figures", str(folder), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert all(f"{out / name}.{{svg,png}}" in said for name in NAMES)
    assert {path.name for path in out.iterdir()} == {
        f"{name}.{kind}" for name in NAMES for kind in ("svg", "png")
    }
    for name in NAMES:
        assert ET.parse(out / f"{name}.svg").getroot().tag.endswith("svg")
        height, width, _ = matplotlib.image.imread(out / f"{name}.png").shape
        assert 1000 < width < 1800
        assert height > 400
    before = {path.name: path.read_bytes() for path in out.glob("*.svg")}
    assert main(["bench", "figures", str(folder), "--out", str(out)]) == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.svg")} == before, "the same bytes again"


def test_axes_have_names_with_units_and_engines_keep_their_colours(folder: Path) -> None:
    found = read_results(folder)
    figures = [drawing.offline_throughput(found), drawing.latency_over_rate(found)]
    assert [(f.axes[0].get_xlabel(), f.axes[0].get_ylabel()) for f in figures] == [
        ("Requests at once", "Throughput (output tokens/s)"),
        ("Request rate (requests/s)", "Average latency (s)"),
    ]
    for figure in figures:
        colours = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
        assert (colours["gLLM"], colours["vLLM"]) == (drawing.BLUE, drawing.VERMILLION)
        assert len({line.get_marker() for line in figure.axes[0].lines}) == len(figure.axes[0].lines)
    rows = drawing.latency_breakdown(found).axes[0]
    assert rows.get_xlabel() == "Share of the run's time (%)"
    assert [tick.get_text() for tick in rows.get_yticklabels()] == [
        "gLLM", "gLLM, no pipe schedule", "transformers",
    ]  # fmt: skip
    panels = drawing.pipeline(found).axes
    assert panels[2].get_xlabel() == "Time (ms)"
    assert panels[0].get_title(loc="left").startswith("1 plan in flight")
    assert [tick.get_text() for tick in panels[0].get_yticklabels()] == ["frontend", "scheduler", "worker"]


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "figures", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert "pipeline: " in said.out
    assert "holds no result of `gllm bench throughput --trace-file`" in said.out
    assert "holds no results that a figure could be made of" in said.err
    assert main(["bench", "figures", str(tmp_path / "nowhere")]) == 2
    assert "is no folder of results" in capsys.readouterr().err
    assert Results().traces == {}
