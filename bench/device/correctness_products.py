"""Part 2, products of few rows: right, and to the bit what a library computes of many rows."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F

from bench.device.machine import Machine
from gllm.kernels.few_rows import few_rows_linear
from gllm.kernels.tuning import product_tiling
from gllm.worker.cuda import sum_in_one_order

SHAPES = ((4096, 14336), (6144, 4112), (28672, 4096))  # outputs, inputs; some that no block divides
MANY = 2048
MOST_ERROR = 1e-2


def checks(machine: Machine, dtypes: tuple[torch.dtype, ...]) -> Iterator[tuple[str, Callable[[], None]]]:
    for dtype in dtypes:
        for num_out, num_in in ((64, 96),) if machine.is_dry else SHAPES:
            name = f"product {num_out} x {num_in} {dtype}"
            yield name, partial(check, machine, name, num_out, num_in, dtype)


def check(machine: Machine, name: str, num_out: int, num_in: int, dtype: torch.dtype) -> None:
    tiling = product_tiling(num_out)
    if tiling is None:
        machine.emit("skipped", name=name, reason="a library computes all of this chip's products")
        return
    if not machine.is_dry:
        sum_in_one_order()
    x = torch.randn(MANY, num_in, device=machine.device).to(dtype)
    weight = torch.randn(num_out, num_in, device=machine.device).to(dtype)
    for bias in (None, torch.randn(num_out, device=machine.device).to(dtype)):
        many = F.linear(x, weight, bias)
        for rows in (rows for rows in (1, 7, 16, 32, 64) if rows <= tiling.most_rows):
            got = few_rows_linear(x[:rows], weight, bias, tiling)
            want = x[:rows].double() @ weight.double().T
            want += 0.0 if bias is None else bias.double()
            error = float((got.double() - want).norm() / want.norm())
            same_bits = torch.equal(got, many[:rows])
            machine.emit(
                "correctness", kernel="product of few rows", shape=name, rows=rows, bias=bias is not None,
                error=error, limit=MOST_ERROR, same_bits=same_bits,
                ok=error <= MOST_ERROR and (same_bits or machine.is_dry),
            )  # fmt: skip
