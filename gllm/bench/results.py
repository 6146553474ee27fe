"""Saved results as the figures need them: found in one folder by what is in them, not by how they are called.

Knows the forms that `bench.compare`, `gllm bench throughput --output-json`, `gllm bench serve --save-result`
and `--trace-file` write; nothing of drawing.
"""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gllm.timeline import TimelineError, Trace

WITHOUT_PIPE = "gllm-no-pipe"


@dataclass
class Results:
    """What a folder holds.

    offline: output tokens a second by engine and number of requests. breakdowns: `latency_breakdown` by
    engine. latencies: seconds by engine and request rate. traces: gLLM's timelines by plans in flight.
    """

    offline: dict[str, dict[int, float]] = field(default_factory=dict)
    breakdowns: dict[str, dict[str, Any]] = field(default_factory=dict)
    latencies: dict[str, dict[float, float]] = field(default_factory=dict)
    traces: dict[int, Trace] = field(default_factory=dict)


def read_results(folder: Path, dtype: str = "float32") -> Results:
    """Every result in the folder; what is none of the known forms is passed over."""
    found = Results()
    rates: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*.json*")):
        for held in _objects(path):
            if "latency_breakdown" in held:
                if held["latency_breakdown"]:
                    name = engine_name(held["backend"], held["micro_batches"])
                    found.breakdowns[name] = held["latency_breakdown"]
            elif "avg_latency_ms" in held and held["request_rate"] != "inf":
                of_engine = found.latencies.setdefault(held.get("engine") or held["backend"], {})
                of_engine[float(held["request_rate"])] = held["avg_latency_ms"] / 1e3
            elif held.get("kind") == "offline" and held.get("dtype") == dtype:
                rate = held["num_output_tokens"] / held["seconds"]
                rates[held["engine"]][held["count"]].append(rate)
            elif "traceEvents" in held:
                trace = _trace(path)
                if trace is not None:
                    found.traces[depth(trace)] = trace
    found.offline = {
        engine: {count: statistics.median(measured) for count, measured in sorted(by_count.items())}
        for engine, by_count in rates.items()
    }
    return found


def engine_name(backend: str, micro_batches: int) -> str:
    """How the figures call an engine."""
    if backend == "gllm" and micro_batches == 1:
        return WITHOUT_PIPE
    return {"hf": "transformers"}.get(backend, backend)


def depth(trace: Trace) -> int:
    """Most plans that were in flight at once: made, and not yet computed."""
    changes = [(span.start_ns, 1) for span in trace.lane("scheduler") if span.name.startswith("schedule")]
    changes += [(span.end_ns, -1) for span in trace.lane("worker")]
    most = under_way = 0
    for _, change in sorted(changes):
        under_way += change
        most = max(most, under_way)
    return most


def idle_share(trace: Trace) -> float:
    """The part of the time from the worker's first step to its last in which it had none."""
    steps = trace.lane("worker")
    if not steps:
        raise TimelineError("the timeline holds no step of the worker")
    busy = sum(step.end_ns - step.start_ns for step in steps)
    return 1 - busy / (steps[-1].end_ns - steps[0].start_ns)


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file that holds one, or one a line."""
    text = path.read_text(encoding="utf-8")
    try:
        held = (
            [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
        )
    except ValueError:
        return
    yield from (one for one in held if isinstance(one, dict))


def _trace(path: Path) -> Trace | None:
    try:
        return Trace.read(path)
    except TimelineError:
        return None
