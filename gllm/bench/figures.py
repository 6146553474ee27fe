"""`gllm bench figures`: the four pictures of saved results.

Knows which picture needs what; reading is results.py's, drawing drawing.py's.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gllm.bench.errors import BenchError
from gllm.bench.results import Results, read_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")


def run(given: argparse.Namespace) -> int:
    """Run the command; returns the exit code. Raises `BenchError`."""
    folder = Path(given.results)
    if not folder.is_dir():
        raise BenchError(f"{folder} is no folder of results")
    try:
        from gllm.bench import drawing
    except ImportError as error:
        raise BenchError(f"drawing needs matplotlib ({error}): pip install 'gllm[plot]'") from error
    results = read_results(folder, given.dtype)
    figures: tuple[tuple[str, Callable[[Results], Figure], object, str], ...] = (
        ("offline-throughput", drawing.offline_throughput, results.offline, "python -m bench.compare"),
        ("latency-breakdown", drawing.latency_breakdown, results.breakdowns, "gllm bench throughput"),
        ("latency-over-rate", drawing.latency_over_rate, results.latencies, "python -m bench.online"),
        ("pipeline", drawing.pipeline, results.traces, "gllm bench throughput --trace-file"),
    )
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    num_drawn = 0
    for name, draw, needed, command in figures:
        if not needed:
            print(f"{name}: {folder} holds no result of `{command}`")
            continue
        figure = draw(results)
        for kind in FORMATS:
            drawing.save(figure, out / f"{name}.{kind}")
        print(f"{out / name}.{{{','.join(FORMATS)}}}")
        num_drawn += 1
    if not num_drawn:
        raise BenchError(f"{folder} holds no results that a figure could be made of")
    return 0
