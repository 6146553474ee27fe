"""The figures themselves. Imports matplotlib (extra `plot`): only `gllm bench figures` may import this.

Colours are Okabe and Ito's, which differ for every kind of colour vision; an engine keeps its own in every
figure, and lines differ in their markers, too.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from gllm.bench.breakdown import FORWARD, OUTPUT, SAMPLE, SCHEDULE
from gllm.bench.results import WITHOUT_PIPE, Results, idle_share
from gllm.timeline import LANES, Span, Trace

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE, GREY = (
    "#222222", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#BBBBBB",
)  # fmt: skip
ENGINES = {  # colour, marker; in the order of legends
    "gllm": (BLUE, "o"),
    WITHOUT_PIPE: (SKY, "D"),
    "vllm": (VERMILLION, "s"),
    "openvino": (GREEN, "^"),
    "llama.cpp": (PURPLE, "v"),
    "transformers": (ORANGE, "P"),
}
LABELS = {
    "gllm": "gLLM", WITHOUT_PIPE: "gLLM, no pipe schedule", "vllm": "vLLM", "openvino": "OpenVINO GenAI",
    "llama.cpp": "llama.cpp", "transformers": "transformers",
}  # fmt: skip
PART_COLOURS = {FORWARD: BLUE, SAMPLE: SKY, "idle": GREY, SCHEDULE: ORANGE, OUTPUT: PURPLE}
STYLE: dict[Any, Any] = {
    "font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.titlelocation": "left", "axes.titlesize": 12, "legend.frameon": False, "svg.fonttype": "path",
    "svg.hashsalt": "gllm",
}  # fmt: skip
NUM_STEPS = 7  # of the pipeline figure ...
MIN_SEAM_NS = 1_000_000  # ... and the least that its enlarged part shows behind a step


def save(figure: Figure, path: Path) -> None:
    """Write it, as the suffix says. White behind it: a README may be shown on black."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(
            path, dpi=160, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else {}
        )


def ordered(names: Sequence[str]) -> list[str]:
    """Engines in the order of ENGINES, unknown ones behind."""
    return [name for name in ENGINES if name in names] + sorted(set(names) - set(ENGINES))


def offline_throughput(results: Results) -> Figure:
    """Output tokens a second over the number of requests that come at once."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(7.2, 4.2)
        for name in ordered(list(results.offline)):
            _line(axes, name, results.offline[name])
        counts = sorted({count for found in results.offline.values() for count in found})
        axes.set_xscale("log", base=2)
        _ticks(axes, counts)
        axes.set_ylim(bottom=0)
        _named(axes, "Offline throughput", "Requests at once", "Throughput (output tokens/s)")
    return figure


def latency_over_rate(results: Results) -> Figure:
    """Average latency of a request over the request rate."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(7.2, 4.2)
        for name in ordered(list(results.latencies)):
            _line(axes, name, dict(sorted(results.latencies[name].items())))
        rates = sorted({rate for found in results.latencies.values() for rate in found})
        longest = max(value for found in results.latencies.values() for value in found.values())
        shortest = min(value for found in results.latencies.values() for value in found.values())
        axes.set_xscale("log", base=2)
        _ticks(axes, rates)
        if longest > 8 * shortest:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.set_ylim(shortest / 1.3, longest * 1.3)
        else:
            axes.set_ylim(bottom=0)
        _named(axes, "Latency under load", "Request rate (requests/s)", "Average latency (s)")
    return figure


def latency_breakdown(results: Results) -> Figure:
    """Left the worker, whose parts make up the run; right, enlarged, what it waited and what the host did."""
    names = ordered(list(results.breakdowns))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 1.7 + 0.55 * len(names)), layout="constrained")
        worker, host = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for row, name in enumerate(names):
            _worker_row(worker, row, results.breakdowns[name])
            _host_rows(host, row, results.breakdowns[name])
        worker.set_yticks(range(len(names)), [LABELS.get(name, name) for name in names])
        worker.set_ylim(len(names) - 0.4, -0.6)
        worker.set_xlim(0, 100)
        worker.set_title("Worker")
        host.set_xlim(0, 1.25 * max(map(_host_width, results.breakdowns.values())))
        host.set_title("Idle and host, enlarged")
        for axes in (worker, host):
            axes.set_xlabel("Share of the run's time (%)")
            axes.grid(axis="x", alpha=0.25)
        parts = {
            "model forward": Patch(color=PART_COLOURS[FORWARD]),
            "schedule": Patch(color=PART_COLOURS[SCHEDULE]),
            "sample": Patch(color=PART_COLOURS[SAMPLE]),
            "process output": Patch(color=PART_COLOURS[OUTPUT]),
            "worker idle": Patch(color=PART_COLOURS["idle"]),
            "overlapped by the model": Patch(facecolor="white", edgecolor=BLACK, hatch="////"),
        }
        figure.legend(list(parts.values()), list(parts), loc="outside lower center", ncols=3)
    return figure


def _worker_row(axes: Axes, row: int, found: dict[str, Any]) -> None:
    percent, left = 100 / found["total_s"], 0.0
    parts = found["parts_s"] | {"idle": found["idle_s"]}
    for part in (FORWARD, SAMPLE, "idle"):
        share = parts[part] * percent
        axes.barh(row, share, 0.6, left, color=PART_COLOURS[part])
        if share > 14:
            axes.text(left + share / 2, row, f"{share:.1f} %", ha="center", va="center",
                      color="white" if part == FORWARD else BLACK)  # fmt: skip
        left += share


def _host_width(found: dict[str, Any]) -> float:
    """Percent that the longer one of its two bars shows."""
    host_s = found["parts_s"][SCHEDULE] + found["parts_s"][OUTPUT]
    return float(100 * max(found["idle_s"], host_s) / found["total_s"])


def _host_rows(axes: Axes, row: int, found: dict[str, Any]) -> None:
    """Idle above; below it the host's work, hatched where the model ran meanwhile."""
    percent, left = 100 / found["total_s"], 0.0
    idle = found["idle_s"] * percent
    axes.barh(row - 0.16, idle, 0.28, color=PART_COLOURS["idle"])
    axes.annotate(f"{idle:.2f} %", (idle, row - 0.16), (4, 0), textcoords="offset points", va="center",
                  fontsize=9)  # fmt: skip
    for part in (SCHEDULE, OUTPUT):
        beside = found["overlapped_s"][part] * percent
        alone = found["parts_s"][part] * percent - beside
        axes.barh(row + 0.16, alone, 0.28, left, color=PART_COLOURS[part])
        axes.barh(row + 0.16, beside, 0.28, left + alone, color=PART_COLOURS[part], hatch="////",
                  edgecolor="white", linewidth=0)  # fmt: skip
        left += alone + beside
    axes.annotate(f"{left:.2f} %", (left, row + 0.16), (4, 0), textcoords="offset points", va="center",
                  fontsize=9)  # fmt: skip


def pipeline(results: Results) -> Figure:
    """Consecutive micro-batches of real runs, and one seam between two of them enlarged; a row of panels for
    each number of plans in flight."""
    depths = sorted(results.traces)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.1 + 1.6 * len(depths)), layout="constrained")
        panels = figure.subplots(len(depths), 2, squeeze=False, width_ratios=(3, 2))
        seams = {plans: _typical_seam(results.traces[plans]) for plans in depths}
        widest = max(later.start_ns - earlier.end_ns for earlier, later in seams.values())
        for (overview, seam), plans in zip(panels, depths, strict=True):
            trace = results.traces[plans]
            steps = _middle_steps(trace)
            margin = (steps[-1].end_ns - steps[0].start_ns) // 100
            _panel(overview, trace, steps[0].start_ns - margin, steps[-1].end_ns + margin, steps[0].start_ns)
            what = "plan in flight (no pipe schedule)" if plans == 1 else "plans in flight (pipe schedule)"
            overview.set_title(f"{plans} {what}: worker idle {idle_share(trace):.1%}")
            earlier, later = seams[plans]
            after = max(widest * 3 // 2, MIN_SEAM_NS)
            _panel(seam, trace, earlier.end_ns - after // 3, earlier.end_ns + after, earlier.end_ns)
            seam.set_yticks([])
            seam.set_title(f"between two steps: {(later.start_ns - earlier.end_ns) / 1e6:.2f} ms")
        for axes in panels[-1]:
            axes.set_xlabel("Time (ms)")
        kinds: dict[str, Any] = {
            "micro-batches, in turn": (Patch(color=BLUE), Patch(color=SKY)),
            "schedule": Patch(color=PART_COLOURS[SCHEDULE]),
            "commit, process output": Patch(color=PART_COLOURS[OUTPUT]),
        }
        figure.legend(list(kinds.values()), list(kinds), loc="outside lower center", ncols=3,
                      handler_map={tuple: HandlerTuple(None, pad=0)})  # fmt: skip
    return figure


def _middle_steps(trace: Trace) -> list[Span]:
    """Some steps of the later part of the run, where most of them decode."""
    steps = trace.lane("worker")
    first = max(len(steps) * 2 // 3 - NUM_STEPS, 0)
    return steps[first : first + NUM_STEPS]


def _typical_seam(trace: Trace) -> tuple[Span, Span]:
    """Two steps of the middle ones, with the median time between them."""
    seams = list(pairwise(_middle_steps(trace)))
    seams.sort(key=lambda pair: pair[1].start_ns - pair[0].end_ns)
    return seams[len(seams) // 2]


def _panel(axes: Axes, trace: Trace, start: int, end: int, origin: int) -> None:
    """All lanes from `start` to `end`; `origin` is the axis's zero."""
    lanes = [lane for lane in LANES if trace.lane(lane)]
    axes.set_yticks(range(len(lanes)), lanes)
    axes.set_ylim(len(lanes) - 0.5, -0.5)
    axes.set_xlim((start - origin) / 1e6, (end - origin) / 1e6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for height, lane in enumerate(lanes):
        for span in trace.lane(lane):
            left, right = max(span.start_ns, start), min(span.end_ns, end)
            if left >= right:
                continue
            width = (right - left) / 1e6
            axes.barh(height, width, 0.72, (left - origin) / 1e6, color=_colour(span), linewidth=0)
            if lane == "worker" and right - left > 0.08 * (end - start):
                axes.text((left - origin) / 1e6 + width / 2, height, span.name, ha="center", va="center",
                          fontsize=9, color="white" if _colour(span) == BLUE else BLACK)  # fmt: skip


def _colour(span: Span) -> str:
    if span.lane == "worker":
        return (BLUE, SKY)[span.args["step"] % 2]
    return PART_COLOURS[SCHEDULE if span.name.startswith(("schedule", "submit")) else OUTPUT]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _named(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.legend()


def _line(axes: Axes, name: str, points: dict[Any, float]) -> None:
    colour, marker = ENGINES.get(name, (BLACK, "x"))
    ours = name == "gllm"
    axes.plot(
        list(points), list(points.values()), marker=marker, color=colour, label=LABELS.get(name, name),
        linewidth=2.6 if ours else 1.6, markersize=7, zorder=3 if ours else 2,
        linestyle="--" if name == WITHOUT_PIPE else "-",
    )  # fmt: skip


def _ticks(axes: Axes, places: Sequence[float]) -> None:
    axes.xaxis.set_major_locator(FixedLocator(list(places)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
