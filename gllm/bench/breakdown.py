"""Where the time of a run went: model forward, sample, schedule, process output, and a worker that waits.

Made of intervals, so that work beside the model is told from work that the model had to wait for.
Knows spans, not which engine they are from.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gllm.timeline import Span, Trace

FORWARD, SAMPLE, SCHEDULE, OUTPUT = PARTS = ("model forward", "sample", "schedule", "process output")
MODEL = (FORWARD, SAMPLE)  # what the worker does, one after the other

Interval = tuple[int, int]  # from, to: CLOCK_MONOTONIC nanoseconds
Timed = tuple[str, int, int]  # part, from, to


@dataclass(frozen=True)
class Breakdown:
    """Seconds of a run that took `total_s`.

    parts: by name; model forward, sample and `idle_s` make up the whole. Where an engine does not tell
    sampling from the forward pass, both are in the latter. overlapped: of a part, the seconds beside the
    model. schedule: taking requests and making plans; process output: committing results, detokenizing,
    delivering.
    """

    total_s: float
    idle_s: float
    parts: dict[str, float]
    overlapped: dict[str, float]

    def lines(self) -> Iterator[str]:
        """A table of it."""
        yield f"{'Latency breakdown':<24}{'seconds':>10}{'share':>9}{'overlapped by the model':>26}"
        for part in MODEL:
            yield self._line(part, self.parts[part])
        yield self._line("idle (no micro-batch)", self.idle_s)
        for part in (SCHEDULE, OUTPUT):
            overlap = self.overlapped[part] / self.parts[part] if self.parts[part] else 0.0
            yield f"{self._line(part, self.parts[part])}{overlap:>25.1%}"

    def _line(self, name: str, seconds: float) -> str:
        return f"  {name:<22}{seconds:>10.3f}{seconds / self.total_s:>9.1%}"

    def to_json(self) -> dict[str, Any]:
        return {
            "total_s": self.total_s,
            "idle_s": self.idle_s,
            "parts_s": self.parts,
            "overlapped_s": self.overlapped,
        }


def breakdown(timed: Iterable[Timed], began_ns: int, ended_ns: int) -> Breakdown | None:
    """The breakdown of what lies between the two times; None where nothing does."""
    by_part: dict[str, list[Interval]] = {part: [] for part in PARTS}
    for part, start, end in timed:
        if end > began_ns and start < ended_ns:
            by_part[part].append((max(start, began_ns), min(end, ended_ns)))
    merged = {part: union(intervals) for part, intervals in by_part.items()}
    model = union(merged[FORWARD] + merged[SAMPLE])
    if not model:
        return None
    total_ns = ended_ns - began_ns
    return Breakdown(
        total_s=total_ns / 1e9,
        idle_s=(total_ns - length(model)) / 1e9,
        parts={part: length(intervals) / 1e9 for part, intervals in merged.items()},
        overlapped={part: length(common(merged[part], model)) / 1e9 for part in (SCHEDULE, OUTPUT)},
    )


def of_trace(trace: Trace) -> Iterator[Timed]:
    """The parts of gLLM's own timeline."""
    for span in trace.spans:
        if span.lane == "worker":
            yield from _of_step(span)
        elif span.lane == "scheduler":
            part = SCHEDULE if span.name.startswith("schedule") else OUTPUT
            yield part, span.start_ns, span.end_ns
        else:
            part = SCHEDULE if span.name == "submit" else OUTPUT
            yield part, span.start_ns, span.end_ns


def _of_step(span: Span) -> Iterator[Timed]:
    forward_end = span.start_ns + span.args.get("forward_ns", span.end_ns - span.start_ns)
    yield FORWARD, span.start_ns, forward_end
    yield SAMPLE, forward_end, span.end_ns


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same instants, as intervals in order that do not touch."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        elif end > start:
            found.append((start, end))
    return found


def common(one: list[Interval], other: list[Interval]) -> list[Interval]:
    """The instants in both, of two unions."""
    found, i, j = [], 0, 0
    while i < len(one) and j < len(other):
        start, end = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if start < end:
            found.append((start, end))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return found


def length(intervals: Iterable[Interval]) -> int:
    return sum(end - start for start, end in intervals)
