"""What the processes did when, as a picture: Chrome's trace event format, which Perfetto reads.

Each process keeps the newest of its spans in memory and writes them into the run directory when it
ends; the launcher joins these parts to one file. Times are CLOCK_MONOTONIC, which all processes of a
host share. Knows nothing of what a span means.

Format: "Trace Event Format" of Chromium's catapult project, object form, phases X and M.
"""

import contextlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

MAX_SPANS = 200_000  # of one process, some 150 bytes each
PART = "timeline-{}.json"  # in the run directory, by process
LANES = ("frontend", "scheduler", "worker")  # from the top to the bottom


class TimelineError(ValueError):
    """No timeline can be written or read there; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Span:
    """`lane` did `name` from `start_ns` to `end_ns`; args: numbers to show beside it."""

    lane: str
    name: str
    start_ns: int
    end_ns: int
    args: dict[str, int] = field(default_factory=dict)


class Timeline:
    """The newest spans of one process, `max_spans` at most."""

    def __init__(self, max_spans: int = MAX_SPANS) -> None:
        # As the fields of `Span`, which would take longer to make: a worker adds between two steps.
        self._rows: deque[tuple[str, str, int, int, dict[str, int]]] = deque(maxlen=max_spans)
        self._num_added = 0

    def add(self, lane: str, name: str, start_ns: int, end_ns: int, **args: int) -> None:
        self._rows.append((lane, name, start_ns, end_ns, args))
        self._num_added += 1

    def save(self, run_dir: Path, process: str) -> None:
        """Leave the spans in the run directory for the launcher to find."""
        part = {"dropped": self._num_added - len(self._rows), "spans": list(self._rows)}
        file = run_dir / PART.format(f"{process}-{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):  # a launcher that failed has tidied up already
            file.write_text(json.dumps(part, separators=(",", ":")))


@contextlib.contextmanager
def drawn(path: str | None, run_dir: Path, process: str) -> Iterator[Timeline | None]:
    """A process's timeline, saved when the block ends; None where no trace file is wanted."""
    if path is None:
        yield None
        return
    timeline = Timeline()
    try:
        yield timeline
    finally:
        timeline.save(run_dir, process)


def check_writable(path: str | None) -> None:
    """Raises `TimelineError` now rather than after hours of serving."""
    if path is None:
        return
    try:
        with Path(path).open("a"):
            pass
    except OSError as error:
        raise TimelineError(
            f"the trace file {path} cannot be written ({error.strerror}): name another one with --trace-file"
        ) from None


def join(run_dir: Path, path: str | None) -> None:
    """Make the trace file of all parts in the run directory."""
    if path is None:
        return
    spans: list[Span] = []
    num_dropped = 0
    for file in sorted(run_dir.glob(PART.format("*"))):
        part = json.loads(file.read_text())
        num_dropped += part["dropped"]
        spans += [Span(*row) for row in part["spans"]]
    Path(path).write_text(Trace(spans, num_dropped).to_json())


@dataclass(frozen=True)
class Trace:
    """A whole timeline. num_dropped: older spans that no longer fitted."""

    spans: list[Span]
    num_dropped: int = 0

    def to_json(self) -> str:
        """One object with `traceEvents`, in order of time; microseconds since the first span began."""
        spans = sorted(self.spans, key=lambda one: (one.start_ns, -one.end_ns))
        origin = spans[0].start_ns if spans else 0
        lanes = {lane: number for number, lane in enumerate(_lanes(spans), 1)}
        events = [_event(one, origin, lanes[one.lane]) for one in spans]
        lines = [json.dumps(event, separators=(",", ":")) for event in [*_names(lanes), *events]]
        other = json.dumps({"clock_origin_ns": origin, "dropped_spans": self.num_dropped})
        return (
            f'{{"displayTimeUnit":"ms","otherData":{other},"traceEvents":[\n' + ",\n".join(lines) + "\n]}\n"
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """The inverse of `to_json`; raises `TimelineError`."""
        try:
            held = json.loads(path.read_text())
            origin = held["otherData"]["clock_origin_ns"]
            events = held["traceEvents"]
            lanes = {one["tid"]: one["args"]["name"] for one in events if one["name"] == "thread_name"}
            spans = [_span(one, origin, lanes) for one in events if one["ph"] == "X"]
            return cls(spans, held["otherData"]["dropped_spans"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TimelineError(f"{path} is no timeline that gLLM wrote ({error!r:.80})") from None

    def lane(self, name: str) -> list[Span]:
        """The spans of one lane, in order of time."""
        return sorted((one for one in self.spans if one.lane == name), key=lambda one: one.start_ns)


def _lanes(spans: Iterable[Span]) -> list[str]:
    found = {one.lane for one in spans}
    return [lane for lane in LANES if lane in found] + sorted(found.difference(LANES))


def _names(lanes: dict[str, int]) -> Iterator[dict[str, Any]]:
    yield {"name": "process_name", "ph": "M", "pid": 1, "tid": 0, "args": {"name": "gLLM"}}
    for lane, number in lanes.items():
        yield {"name": "thread_name", "ph": "M", "pid": 1, "tid": number, "args": {"name": lane}}
        yield {"name": "thread_sort_index", "ph": "M", "pid": 1, "tid": number,
               "args": {"sort_index": number}}  # fmt: skip


def _event(span: Span, origin: int, tid: int) -> dict[str, Any]:
    return {"name": span.name, "cat": span.lane, "ph": "X", "pid": 1, "tid": tid,
            "ts": (span.start_ns - origin) / 1e3, "dur": (span.end_ns - span.start_ns) / 1e3,
            "args": span.args}  # fmt: skip


def _span(event: dict[str, Any], origin: int, lanes: dict[int, str]) -> Span:
    start = origin + round(event["ts"] * 1e3)
    return Span(lanes[event["tid"]], event["name"], start, start + round(event["dur"] * 1e3), event["args"])
