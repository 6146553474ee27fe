"""Compile every Triton kernel for real architectures on a machine without a GPU.

    python -m bench.aot [--json] [--all] [--arch 80 90 100]

Calls the operators as the worker does, on tensors that are never read, with a driver that names an
architecture and launches nothing: so each kernel is compiled with the signature that it is really
launched with. Prints a table: registers, bytes of stack (spills: these kernels keep no arrays) and of
shared memory, tensor-core instructions. Exits 1 if a kernel breaks the limits below.
"""

import argparse
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from gllm.kernels import (
    activation,
    attention,
    experts,
    few_rows,
    head_norm,
    logits,
    logprobs,
    norm,
    rotary,
    sampling,
)
from gllm.kernels.attention_work import group_rows
from gllm.kernels.tuning import PRODUCTS, ProductTiling

ARCHITECTURES = (80, 90, 100)
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes a program, CUDA's programming guide
TENSOR_CORES = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
SMALL_TILE = "mma.sync"  # what a tile of 16 rows uses on every architecture

# kernel, architecture -> bytes of stack; all others have none
STACK_ALLOWED: dict[tuple[str, int], int] = {
    ("attend_tiles", 80): 16,  # with 7 query heads to a key head; page ids are a stage of their own
    ("attend_tiles", 90): 96,  # 128 registers, so that two programs share a multiprocessor: see tuning.py
    ("attend_tiles", 100): 8,  # heads of 64, pages of 64
}


@dataclass(frozen=True, slots=True)
class Shape:
    """Attention of one model family, as far as kernels differ by it."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int = 16
    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"{self.num_heads}/{self.num_kv_heads} heads of {self.head_dim}, page {self.page_size}, {dtype}"
        )


SHAPES = (
    Shape(32, 8, 128),
    Shape(32, 8, 128, 32),
    Shape(32, 8, 128, 64),
    Shape(28, 4, 128, 16, torch.float16),
    Shape(32, 8, 64),
    Shape(32, 32, 80),
    Shape(32, 32, 96),
    Shape(16, 16, 256),
)
MORE_SHAPES = tuple(
    Shape(heads, kv_heads, head_dim, page_size, dtype)
    for heads, kv_heads, head_dim in (
        (32, 8, 64),
        (32, 32, 80),
        (32, 32, 96),
        (28, 4, 128),
        (64, 8, 128),
        (16, 8, 256),
    )
    for page_size in (16, 32, 64)
    for dtype in (torch.bfloat16, torch.float16)
)


(_, LARGE_PRODUCT), (_, SMALL_PRODUCT) = PRODUCTS[90]


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel for one architecture. `stack` and `shared` are bytes a thread and a program."""

    kernel: str
    shape: str
    arch: int
    registers: int
    stack: int
    shared: int
    cubin: int
    tensor_core: str

    def faults(self) -> Iterator[str]:
        """What is wrong with it, in sentences."""
        name = f"{self.kernel} ({self.shape}) for sm_{self.arch}"
        if not self.cubin:
            yield f"{name} has no machine code"
        if self.shared > SHARED_LIMIT[self.arch]:
            yield f"{name} takes {self.shared} bytes of shared memory, the chip has {SHARED_LIMIT[self.arch]}"
        allowed = STACK_ALLOWED.get((self.kernel, self.arch), 0)
        if self.stack > allowed:
            yield f"{name} spills: {self.stack} bytes of stack, {allowed} are allowed"
        if self.wanted_instruction() not in self.tensor_core:
            yield f"{name} does not use {self.wanted_instruction()}"

    def wanted_instruction(self) -> str:
        if self.kernel not in ("attend_splits", "attend_tiles", "expert_inner", "expert_outer"):
            return ""
        is_small = self.kernel == "attend_splits" or "few pairs" in self.shape
        return SMALL_TILE if is_small else TENSOR_CORES[self.arch]


class NullDriver:
    """Stands where Triton expects a GPU's driver; its device number is the architecture."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        del device
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)


@contextmanager
def compile_only(arch: int, seen: Callable[[str, Any], None]) -> Iterator[None]:
    """Inside, launching a kernel compiles it for `arch` and passes its name and itself to `seen`."""
    run = JITFunction.run

    def warm_up(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        del warmup
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        seen(self.fn.__name__, kernel)
        return kernel

    triton.runtime.driver.set_active(NullDriver(arch))
    JITFunction.run = warm_up
    try:
        yield
    finally:
        JITFunction.run = run
        triton.runtime.driver._active = None


def call_attention(shape: Shape) -> None:
    """A mixed batch: one decode and one chunk."""
    before, starts = torch.tensor([700, 300]), torch.tensor([0, 1, 65])
    qkv = torch.empty(65, shape.num_heads + 2 * shape.num_kv_heads, shape.head_dim, dtype=shape.dtype)
    pages = torch.empty(64, shape.page_size, shape.num_kv_heads, shape.head_dim, dtype=shape.dtype)
    table = torch.empty(2, 64, dtype=torch.int32)
    heads = {"num_heads": shape.num_heads, "num_kv_heads": shape.num_kv_heads, "head_dim": shape.head_dim}
    attention.paged_attention(
        qkv[:, : shape.num_heads],
        pages,
        pages,
        table,
        before,
        starts,
        scale=shape.head_dim**-0.5,
        groups=group_rows(before, starts, **heads),
    )


def call_rotary(shape: Shape, *, turned: int, interleaved: bool, normed: bool) -> None:
    """`turned` dimensions of a head turn; `normed` as in Qwen3."""
    qkv = torch.empty(3, shape.num_heads + 2 * shape.num_kv_heads, shape.head_dim, dtype=shape.dtype)
    pages = torch.empty(64, shape.page_size, shape.num_kv_heads, shape.head_dim, dtype=shape.dtype)
    angles = torch.empty(3, turned // 2)
    weight = torch.empty(shape.head_dim, dtype=shape.dtype) if normed else None
    rotary.rotary_write(
        qkv,
        angles,
        angles,
        pages,
        pages,
        torch.zeros(3, dtype=torch.int64),
        interleaved=interleaved,
        q_norm=weight,
        k_norm=weight,
        eps=1e-6,
    )


def call_sampling(dtype: torch.dtype) -> None:
    rows = torch.empty(3, 128256, dtype=dtype)
    column = torch.empty(3)
    sampling.greedy(rows)
    for log_min_p in (None, column):
        sampling.sample(rows, column, column.int(), column, column.long(), column.long(), log_min_p)


def call_product(num_rows: int, tiling: ProductTiling) -> None:
    """With a bias, and inputs that no block divides."""
    for size in (4096, 4112):
        weight = torch.empty(6144, size, dtype=torch.bfloat16)
        x = torch.empty(num_rows, size, dtype=torch.bfloat16)
        few_rows.few_rows_linear(x, weight, weight[:, 0] if size == 4112 else None, tiling)


def call_logits() -> None:
    rows, column, few = torch.empty(3, 128256), torch.empty(3), torch.empty(3, 8, dtype=torch.int32)
    index, counts = column.long(), torch.empty(3, 128256, dtype=torch.int32)
    logits.apply_masks(rows, index, torch.empty(3, 128256 // 32, dtype=torch.int32))
    logits.ban_words(rows, index, index, index, few, few)
    logits.add_to_logits(rows, index, index, column)
    logits.penalize(rows, index, index, counts, column, column, column)
    logprobs.logprobs(rows, index, 20)


def call_experts(num_tokens: int) -> None:
    """As in Qwen3-30B-A3B."""
    x = torch.empty(num_tokens, 2048, dtype=torch.bfloat16)
    gate_up = torch.empty(128, 2 * 768, 2048, dtype=torch.bfloat16)
    down = torch.empty(128, 2048, 768, dtype=torch.bfloat16)
    chosen = torch.empty(num_tokens, 8, dtype=torch.int64)
    experts.mix_experts(x, gate_up, down, chosen, torch.empty(num_tokens, 8))


def calls(shapes: tuple[Shape, ...]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Everything that the worker launches: what it is, and how to call it."""
    for shape in shapes:
        yield str(shape), lambda shape=shape: call_attention(shape)  # type: ignore[misc]
    full = Shape(32, 8, 128)
    for shape, turned, interleaved, normed in (
        (full, 128, False, False),
        (full, 128, False, True),
        (Shape(32, 2, 128), 64, True, False),
        (Shape(32, 32, 80), 32, False, False),
        (Shape(32, 32, 96), 96, False, False),
    ):
        label = f"{shape}, {turned} turned{', interleaved' * interleaved}{', normed' * normed}"
        yield (
            label,
            lambda a=(shape, turned, interleaved, normed): call_rotary(  # type: ignore[misc]
                a[0], turned=a[1], interleaved=a[2], normed=a[3]
            ),
        )
    for size in (2048, 4096, 5120):
        x = torch.empty(3, size, dtype=torch.bfloat16)
        yield f"size {size}", lambda x=x: norm.rms_norm(x, x[0], 1e-5)  # type: ignore[misc]
        yield f"size {size}", lambda x=x: norm.add_rms_norm(x, x, x[0], 1e-5)  # type: ignore[misc]
    yield "size 14336", lambda: activation.silu_mul(torch.empty(3, 2 * 14336, dtype=torch.bfloat16))
    heads = torch.empty(3, 32 + 2 * 4, 128, dtype=torch.bfloat16)
    yield "32/4 heads of 128", lambda: head_norm.norm_heads(heads, heads[0], heads[0], 1e-6, num_heads=32)
    for name, num_tokens in (("few", 3), ("some", 1024), ("many", 8192)):
        yield f"128 experts, {name} pairs", lambda n=num_tokens: call_experts(n)  # type: ignore[misc]
    for rows in (1, 16, 32, 64):
        for tiling in (SMALL_PRODUCT, LARGE_PRODUCT):
            yield f"{rows} rows, blocks of {tiling.block_out}", lambda r=rows, t=tiling: call_product(r, t)  # type: ignore[misc]
    yield "vocabulary 128256, its logits", call_logits
    for dtype in (torch.float32, torch.bfloat16):
        yield f"vocabulary 128256, {dtype}", lambda dtype=dtype: call_sampling(dtype)  # type: ignore[misc]


def compile_all(arch: int, shapes: tuple[Shape, ...]) -> list[Compiled]:
    compiled: list[Compiled] = []
    for label, call in calls(shapes):

        def seen(name: str, kernel: Any, label: str = label) -> None:
            compiled.append(report(name, label, arch, kernel))

        with compile_only(arch, seen):
            call()
    return compiled


def report(name: str, shape: str, arch: int, kernel: Any) -> Compiled:
    """Read the machine code's own account of what it uses."""
    tools = Path(triton.__path__[0]) / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(tools / "cuobjdump"), "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {key: int(value) for key, value in re.findall(r"(REG|STACK):(\d+)", text)}
    ptx = kernel.asm["ptx"]
    names = [word for word in ("wgmma.mma_async", "tcgen05.mma", "mma.sync") if re.search(rf"\s{word}", ptx)]
    return Compiled(
        name,
        shape,
        arch,
        used["REG"],
        used["STACK"],
        kernel.metadata.shared,
        len(kernel.asm["cubin"]),
        " ".join(names),
    )


def table(compiled: list[Compiled]) -> Iterator[str]:
    heads = [field.name for field in dataclasses.fields(Compiled)]
    rows = [heads] + [[str(getattr(item, head)) for head in heads] for item in compiled]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument("--all", action="store_true", help="every head_dim with every page size and dtype")
    parser.add_argument("--json", action="store_true", help="one JSON object a kernel instead of a table")
    options = parser.parse_args()
    shapes = SHAPES + MORE_SHAPES if options.all else SHAPES
    compiled = [item for arch in options.arch for item in compile_all(arch, shapes)]
    print(
        "\n".join(json.dumps(dataclasses.asdict(item)) for item in compiled)
        if options.json
        else "\n".join(table(compiled))
    )
    faults = [fault for item in compiled for fault in item.faults()]
    print("\n".join(faults), file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
