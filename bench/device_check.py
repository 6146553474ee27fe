"""Run and time kernels and worker on a GPU, from a bare copy of the tree: torch, triton, msgpack, safetensors
and tqdm are all it needs.

    python -m bench.device_check [--parts 1,4] [--out DIR] [--limit SECONDS] [--share I/N] [--dry-run]

| part | what |
|---|---|
| 1 | ceilings: copy bandwidth, bf16 matmul |
| 2 | every kernel against the reference in float32, fresh random inputs |
| 3 | every kernel's time as a fraction of the ceilings |
| 4 | a model of Llama 3 8B's shape, random weights: decode and prefill steps, graphs and eager |
| 5 | the same model: 512 requests of recorded lengths |
| 6 | the same model: greedy tokens with and without graphs, alone and together |
| 7 | a small model: whatever a request may ask of sampling, on the GPU and on the CPU |
| tune | attention under other tilings and splits |

Each part ends within --limit (8 minutes) and skips what is left. Writes JSON lines to DIR, line by
line; prints a table at the end. Exits 1 on an error or a wrong result. --share I/N, from 0, takes every
N-th item of parts 2 and tune: compiling takes longest, so that N processes beside one another check all
in a fraction of the time, and leave a warm cache for those that time. --dry-run needs no GPU: tiny
shapes in Triton's interpreter, times that mean nothing.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

PARTS = {
    "1": "bench.device.ceilings",
    "2": "bench.device.correctness",
    "3": "bench.device.timings",
    "4": "bench.device.decode",
    "5": "bench.device.offline",
    "6": "bench.device.sameness",
    "7": "bench.device.requests",
    "tune": "bench.device.tiling_sweep",
}
HIDDEN = ("record", "limit")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}; all is the default")
    parser.add_argument("--out", type=Path, default=Path("device_check"), help="folder of the JSON lines")
    parser.add_argument("--limit", type=float, default=480.0, help="seconds a part may take")
    parser.add_argument("--share", default="0/1", help="I/N: every N-th item of parts 2 and tune, from I")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"no part {unknown[0]!r}: choose from {', '.join(PARTS)}")
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported, which happens below
    machine_type = import_module("bench.device.machine").Machine
    index, count = map(int, options.share.split("/"))
    machine = machine_type(
        is_dry=options.dry_run, out=options.out, limit_s=options.limit, share=(index, count)
    )
    machine.emit("machine", **machine.description())
    for part in parts:
        start = time.monotonic()
        machine.start_part()
        machine.attempt(f"part {part}", import_module(PARTS[part]).run, machine)
        machine.release()
        machine.emit("part", part=part, seconds=round(time.monotonic() - start, 1))
    print("\n".join(table(machine.records)), flush=True)
    failed = [item for item in machine.records if item["record"] == "error" or item.get("ok") is False]
    return 1 if failed else 0


def table(records: list[dict[str, Any]]) -> Iterator[str]:
    """The records of each kind behind one another, a column a field."""
    for kind in dict.fromkeys(item["record"] for item in records):
        rows = [item for item in records if item["record"] == kind]
        heads = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in HIDDEN]
        cells = [heads] + [[show(row.get(head, "")) for head in heads] for row in rows]
        widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
        yield ""
        yield kind
        for row in cells:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:100]


if __name__ == "__main__":
    sys.exit(main())
