"""How the time of a worker's step grows with its work: rows, prompt length, context, vocabulary.

    python -m bench.cost_growth [--out growth.json] [--plot growth.png] [--rounds 3]
    python -m bench.cost_growth --show growth.json --plot growth.png

A 125M Llama shape with made-up weights, one axis varied at a time. Each measured time stands beside the line
through two of the axis's points, between which nothing but the varied work should grow. What bends away,
and why, is in bench/NOTES.md.
"""

import argparse
import datetime
import json
import platform
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.forward import Point, Stepper
from gllm.simulate.plot import BLUE, GREY, new_figure
from gllm.worker.options import WorkerOptions
from gllm.worker.start import make_runner

SHAPE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 768,
    "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
}  # fmt: skip
VOCAB_SIZE = 32000
ROWS, PROMPTS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64), (16, 32, 64, 128, 256, 512, 1024, 2048)
CONTEXTS, VOCABS = (16, 256, 512, 1024, 2048, 4096), (8000, 16000, 32000, 64000, 128000)
ROWS_OF_CONTEXT = 8
AXES = {
    "rows": [(rows, Point(rows, 200)) for rows in ROWS],
    "prompt": [(count, Point(0, 0, 1, count)) for count in PROMPTS],
    "context": [(context, Point(ROWS_OF_CONTEXT, context)) for context in CONTEXTS],
}
LINES = {"rows": (32, 64), "prompt": (64, 256), "context": (512, 2048), "vocab": (16000, 64000)}
LABELS = {
    "rows": "decoding rows, 200 tokens of context each",
    "prompt": "tokens of one prompt",
    "context": f"tokens of context of each of {ROWS_OF_CONTEXT} decoding rows",
    "vocab": "tokens of the vocabulary, 1 decoding row",
}


def stepper(vocab_size: int) -> Stepper:
    with tempfile.TemporaryDirectory() as directory:
        written = json.dumps(SHAPE | {"vocab_size": vocab_size})
        (Path(directory) / "config.json").write_text(written, encoding="utf-8")
        options = WorkerOptions(
            Path(directory), load_format="dummy", max_num_seqs=64, max_num_batched_tokens=2048,
            kv_cache_memory_bytes=1 << 30,
        )  # fmt: skip
        return Stepper(make_runner(options))


def measured(rounds: int) -> Iterator[tuple[str, int, list[float]]]:
    """Axis, value, seconds of its steps; all values of an axis in turn: a disturbance falls on all."""
    worker = stepper(VOCAB_SIZE)
    for axis, points in AXES.items():
        seconds: dict[int, list[float]] = {}
        for _ in range(rounds):
            for value, point in points:
                seconds.setdefault(value, []).extend(each for _, each in worker.measure(point))
        yield from ((axis, value, times) for value, times in seconds.items())
    del worker
    for vocab_size in VOCABS:
        worker = stepper(vocab_size)
        times = [each for _ in range(rounds) for _, each in worker.measure(Point(1, 200))]
        yield "vocab", vocab_size, times


def curves(lines: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Of each axis its values and the median seconds."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        found.setdefault(line["axis"], []).append((line["value"], statistics.median(line["seconds"])))
    return found


def on_line(axis: str, curve: list[tuple[int, float]], value: int) -> float:
    """Seconds on the line through the axis's two points."""
    (x0, y0), (x1, y1) = ((x, dict(curve)[x]) for x in LINES[axis])
    return y0 + (y1 - y0) / (x1 - x0) * (value - x0)


def report(given: dict[str, Any]) -> str:
    lines = [f"{given['machine']}, {given['date']}: {given['command']}"]
    for axis, curve in curves(given["lines"]).items():
        lines.append(f"{LABELS[axis]:<52} {'ms':>9} {'line':>9}")
        lines += [
            f"{value:>52} {1e3 * s:>9.2f} {1e3 * on_line(axis, curve, value):>9.2f}" for value, s in curve
        ]
    return "\n".join(lines)


def plot(given: dict[str, Any], path: Path) -> None:
    figure = new_figure()
    figure.suptitle(
        f"Time of one step, 125M Llama shape in float32\n{given['machine']}, {given['date']}", fontsize=10
    )
    for ax, (axis, curve) in zip(figure.subplots(4, 1), curves(given["lines"]).items(), strict=True):
        values, seconds = zip(*curve, strict=True)
        ax.plot(values, [1e3 * on_line(axis, curve, v) for v in values], "--", color=GREY, linewidth=1)
        ax.plot(values, [1e3 * s for s in seconds], "o-", color=BLUE, markersize=4)
        ax.set_xlabel(LABELS[axis])
        ax.set_ylabel("ms")
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="the result file to write")
    parser.add_argument("--show", type=Path, help="a result file, instead of measuring")
    parser.add_argument("--plot", type=Path, help="the picture to draw, PNG or SVG (extra `plot`)")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.show is not None:
        given = json.loads(args.show.read_text(encoding="utf-8"))
    else:
        lines = [
            {"axis": axis, "value": value, "seconds": times} for axis, value, times in measured(args.rounds)
        ]
        given = {
            "command": f"python -m bench.cost_growth --rounds {args.rounds}",
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
            f"{torch.backends.cpu.get_cpu_capability()}",
            "lines": lines,
        }  # fmt: skip
        if args.out is not None:
            args.out.write_text(json.dumps(given) + "\n", encoding="utf-8")
    print(report(given))
    if args.plot is not None:
        plot(given, args.plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
