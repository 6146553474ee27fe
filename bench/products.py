"""Products with a weight in every way that this CPU has, by rows and shape.

    python -m bench.products [--rows 1,4,16,64,256,1024] [--seconds 0.3] [--num-threads N]

Weights of one shape go round through 256 MB, so that they come from memory as a model's do. The ways take
turns within each measurement: what disturbs the machine falls on all alike. GFLOP/s, in the median.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from gllm.kernels.packed_linear import HAS_MATRIX_UNIT, packed
from gllm.worker.host import usable_cores

SHAPES = ((768, 4096), (2048, 768), (4096, 4096))  # inputs, outputs
ROUND_BYTES = 256 << 20

Product = Callable[[Tensor], Tensor]


def ways(weight: Tensor) -> dict[str, Callable[[], Product]]:
    """How each way prepares `weight`, float32 [out, in]."""
    short, scale = weight.bfloat16(), weight.abs().amax(1) / 127
    bytes_ = (weight / scale[:, None]).round().to(torch.int8)

    def pack(given: Tensor, scale: Tensor | None = None, *, unit: bool, rounds: bool = False) -> Product:
        return packed(given, None, scale, is_gated=False, on_matrix_unit=unit, is_rounded=rounds)

    found: dict[str, Callable[[], Product]] = {
        "torch": lambda: lambda x: F.linear(x, weight),
        "vectors": lambda: pack(weight, unit=False),
        "vectors, bf16 weight": lambda: pack(short, unit=False),
    }
    if HAS_MATRIX_UNIT:
        found |= {
            "AMX": lambda: pack(weight, unit=True),
            "AMX, bf16 weight": lambda: pack(short, unit=True),
            "AMX, int8 weight": lambda: pack(bytes_, scale, unit=True),
            "AMX, all bf16": lambda: pack(short, unit=True, rounds=True),
        }
    return found


def measure(rows: int, made: dict[str, list[Product]], size: int, seconds: float) -> dict[str, float]:
    """Seconds of one product, by way."""
    x = torch.randn(rows, size)
    turns: dict[str, Iterator[Product]] = {way: itertools.cycle(products) for way, products in made.items()}
    times: dict[str, list[float]] = {way: [] for way in made}
    ends = time.perf_counter() + seconds * len(made)
    while time.perf_counter() < ends or len(times["torch"]) < 3:
        for way, products in turns.items():
            product = next(products)
            began = time.perf_counter()
            product(x)
            times[way].append(time.perf_counter() - began)
    return {way: statistics.median(found) for way, found in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="1,4,16,64,256,1024")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each way at each number of rows")
    parser.add_argument("--num-threads", type=int, default=usable_cores())
    given = parser.parse_args()
    torch.set_num_threads(given.num_threads)
    for size, outputs in SHAPES:
        names = list(ways(torch.zeros(1, 1)))
        print(f"\n| rows x [{size}, {outputs}] | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1))
        copies = -(-ROUND_BYTES // (4 * size * outputs))
        made: dict[str, list[Product]] = {name: [] for name in names}
        for _ in range(copies):
            for name, prepare in ways(torch.randn(outputs, size) * size**-0.5).items():
                made[name].append(prepare())
        for rows in map(int, given.rows.split(",")):
            times = measure(rows, made, size, given.seconds)
            rates = (f"{2e-9 * rows * size * outputs / times[name]:.0f}" for name in names)
            print(f"| {rows} | " + " | ".join(rates) + " |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
