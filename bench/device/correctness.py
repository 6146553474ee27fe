"""Part 2: every kernel against `reference.py` in float32, at real shapes, on inputs drawn afresh.

The measure is |got - want| / |want| over all values (Frobenius norms); NaN anywhere fails. Outputs start
full of NaN, and so does whatever no row may read.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bench.device import correctness_experts, correctness_logits, correctness_products
from bench.device.batches import Heads, Pool, tables
from bench.device.machine import Machine
from gllm.kernels import reference, reference_logits
from gllm.kernels.activation import silu_mul
from gllm.kernels.attention import paged_attention
from gllm.kernels.norm import add_rms_norm, rms_norm
from gllm.kernels.rotary import rotary_write
from gllm.kernels.sampling import greedy, sample, uniform

MOST_ERROR = {torch.float32: 1e-5, torch.float16: 1.5e-3, torch.bfloat16: 1e-2}
SHAPES = ((32, 8, 64), (32, 32, 80), (32, 32, 96), (32, 8, 128), (28, 4, 128), (16, 8, 256))
TINY_SHAPES = ((4, 2, 64), (3, 3, 80))


def run(machine: Machine) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    torch.manual_seed(seed)
    source = random.Random(seed)
    machine.emit("seed", seed=seed)
    dtypes = (torch.float16,) if machine.is_dry else (torch.bfloat16, torch.float16)
    for name, check in machine.shared(list(checks(machine, dtypes, source))):
        machine.attempt(name, check)


def checks(
    machine: Machine, dtypes: tuple[torch.dtype, ...], source: random.Random
) -> Iterator[tuple[str, Callable[[], None]]]:
    """All there is to check, and its names."""
    for shape in TINY_SHAPES if machine.is_dry else SHAPES:
        for page_size in (16, 64) if machine.is_dry else (16, 32, 64):
            for dtype in dtypes:
                heads = Heads(*shape, page_size, dtype)
                rows = mixed_rows(source, *((4, 30) if machine.is_dry else (12, 6000)))
                yield f"attention {heads}", partial(check_attention, machine, heads, rows)
    heads = Heads(*((4, 2, 64) if machine.is_dry else (32, 8, 128)), 16, dtypes[0])
    yield "company", partial(check_company, machine, heads, source)
    yield "graph", partial(check_graph, machine, heads, source)
    for dtype in (torch.float32, *dtypes):
        yield f"norms {dtype}", partial(check_norms, machine, dtype)
    for shape in ((4, 2, 64),) if machine.is_dry else SHAPES:
        for interleaved in (False, True):
            heads = Heads(*shape, 16, dtypes[0])
            yield f"rotary {shape}", partial(check_rotary, machine, heads, interleaved)
    yield "sampling", partial(check_sampling, machine)
    yield from correctness_logits.checks(machine)
    yield from correctness_experts.checks(machine, dtypes)
    yield from correctness_products.checks(machine, dtypes)


def mixed_rows(source: random.Random, count: int, most: int) -> list[tuple[int, int]]:
    """Half of them decodes; chunks with and without prefixes; one row at a border of everything."""
    rows = [(source.randrange(most), 1) for _ in range(count // 2)]
    rows += [(source.choice((0, source.randrange(most))), source.randint(2, 300)) for _ in range(count // 2)]
    rows.append((511, 1))
    source.shuffle(rows)
    return rows


def verdict(machine: Machine, kernel: str, shape: str, got: Tensor, want: Tensor) -> None:
    error = float((got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-30))
    limit = MOST_ERROR[got.dtype]
    machine.emit("correctness", kernel=kernel, shape=shape, error=error, limit=limit, ok=error <= limit)


def attend(pool: Pool, q: Tensor, page_table: Tensor, rows: list[tuple[int, int]]) -> Tensor:
    out = torch.full(q.shape, float("nan"), dtype=q.dtype, device=q.device)
    work = pool.heads.work(rows).to(pool.device)
    scale = pool.heads.head_dim**-0.5
    return paged_attention(
        q, pool.k_pages, pool.v_pages, page_table, *tables(rows), scale=scale, groups=work, out=out
    )


def check_attention(machine: Machine, heads: Heads, rows: list[tuple[int, int]]) -> None:
    pool = Pool(heads, sum(-(-(before + count) // 64) * 64 for before, count in rows) + 256, machine.device)
    page_table, q = pool.page_table(rows), pool.queries(rows)
    pool.poison(page_table, rows)
    got = attend(pool, q, page_table, rows)
    before, starts = tables(rows)
    want = torch.empty(q.shape, dtype=torch.float32, device=machine.device)
    for row in range(len(rows)):  # row by row: pages of one row alone fit the memory in float32
        tokens = slice(int(starts[row]), int(starts[row + 1]))
        pages = page_table[row, : -(-sum(rows[row]) // heads.page_size)].long()
        want[tokens] = reference.paged_attention(
            q[tokens].float(),
            pool.k_pages[pages].float().nan_to_num(0.0),
            pool.v_pages[pages].float().nan_to_num(0.0),
            torch.arange(len(pages), device=machine.device)[None],
            before[row : row + 1],
            torch.tensor([0, tokens.stop - tokens.start]),
            scale=heads.head_dim**-0.5,
        )
    verdict(machine, "paged_attention", str(heads), got, want)


def check_company(machine: Machine, heads: Heads, source: random.Random) -> None:
    """A row alone gets the bits that it gets among others."""
    rows = mixed_rows(source, *((4, 30) if machine.is_dry else (12, 6000)))
    pool = Pool(heads, sum(sum(row) + 64 for row in rows), machine.device)
    page_table, q = pool.page_table(rows), pool.queries(rows)
    together = attend(pool, q, page_table, rows)
    starts = tables(rows)[1].tolist()
    same = [
        torch.equal(
            attend(pool, q[start:end], page_table[row : row + 1], rows[row : row + 1]), together[start:end]
        )
        for row, (start, end) in enumerate(pairwise(starts))
    ]
    machine.emit(
        "correctness", kernel="paged_attention", shape=f"{heads}, alone", ok=all(same), rows=len(rows)
    )


def check_graph(machine: Machine, heads: Heads, source: random.Random) -> None:
    """A graph captured for other contexts computes what a launch computes, bit for bit."""
    count, most = (2, 600) if machine.is_dry else (16, 6000)
    old, new = ([(source.randrange(most), 1) for _ in range(count)] for _ in range(2))
    pool = Pool(heads, 2 * count * (most + 64), machine.device)
    tables_of = [pool.page_table([(most, 1)] * count) for _ in range(2)]
    q = pool.queries(old)
    want = attend(pool, q, tables_of[1], new)
    num_splits = count * (most // 512 + 1)
    works = [heads.work(rows).padded(num_splits, count).to(machine.device) for rows in (old, new)]
    page_table, table = tables_of[0].clone(), works[0].table.clone()
    out = torch.full(q.shape, float("nan"), dtype=q.dtype, device=machine.device)
    call = partial(
        paged_attention, q, pool.k_pages, pool.v_pages, page_table, *tables(old),
        scale=heads.head_dim**-0.5, groups=replace(works[0], table=table), out=out,
    )  # fmt: skip
    call()
    if not machine.is_dry:
        machine.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
    page_table.copy_(tables_of[1])
    table.copy_(works[1].table)
    out.fill_(float("nan"))
    if machine.is_dry:
        call()
    else:
        graph.replay()
        machine.synchronize()
    machine.emit("correctness", kernel="paged_attention", shape=f"{heads}, graph", ok=torch.equal(out, want))


def check_norms(machine: Machine, dtype: torch.dtype) -> None:
    size = 96 if machine.is_dry else 5120
    x, residual = torch.randn(2, 3 if machine.is_dry else 777, size, device=machine.device).to(dtype)
    weight = torch.randn(size, device=machine.device).to(dtype)
    shape = f"{tuple(x.shape)} {dtype}"
    verdict(
        machine,
        "rms_norm",
        shape,
        rms_norm(x, weight, 1e-5),
        reference.rms_norm(x.float(), weight.float(), 1e-5),
    )
    want, total = reference.add_rms_norm(x.float(), residual.float(), weight.float(), 1e-5)
    got, got_total = add_rms_norm(x, residual, weight, 1e-5)
    verdict(machine, "add_rms_norm", shape, got, want)
    verdict(machine, "add_rms_norm, total", shape, got_total, total)
    gate_up = x[:, : size // 2 * 2].contiguous() * 4
    verdict(machine, "silu_mul", shape, silu_mul(gate_up), reference.silu_mul(gate_up.float()))


def check_rotary(machine: Machine, heads: Heads, interleaved: bool) -> None:
    """With half of the dimensions turned, then all; then with the norm of each head before."""
    device, dtype, num_heads = machine.device, heads.dtype, heads.num_heads
    num_tokens = 5 if machine.is_dry else 513
    weights = torch.randn(2, heads.head_dim, device=device).to(dtype)
    for pairs, normed in (
        (heads.head_dim // 4, False),
        (heads.head_dim // 2, False),
        (heads.head_dim // 2, True),
    ):
        pool = Pool(heads, num_tokens + 100, device)
        qkv = torch.randn(num_tokens, num_heads + 2 * heads.num_kv_heads, heads.head_dim, device=device).to(
            dtype
        )
        angle = torch.rand(num_tokens, pairs, device=device) * 6
        locations = torch.randperm(num_tokens + 100, device=device)[:num_tokens]
        wide, k_want, v_want = qkv.float(), pool.k_pages.float(), pool.v_pages.float()
        norms: dict[str, Any] = {}
        if normed:
            norms = {"q_norm": weights[0], "k_norm": weights[1], "eps": 1e-6}
            for part, weight in ((wide[:, :num_heads], 0), (wide[:, num_heads : -heads.num_kv_heads], 1)):
                part.copy_(reference.rms_norm(part, weights[weight].float(), 1e-6))
        rotation = angle.cos(), angle.sin()
        q_want = reference.rotary_write(wide, *rotation, k_want, v_want, locations, interleaved=interleaved)
        q_got = rotary_write(
            qkv, *rotation, pool.k_pages, pool.v_pages, locations, interleaved=interleaved, **norms
        )
        shape = f"{heads}, {2 * pairs} turned{', interleaved' * interleaved}{', normed' * normed}"
        for name, got, want in (
            ("q", q_got, q_want),
            ("k", pool.k_pages, k_want),
            ("v", pool.v_pages, v_want),
        ):
            verdict(machine, f"rotary_write, {name}", shape, got, want)


@triton.jit
def uniforms(seeds, positions, out):  # type: ignore[no-untyped-def]
    row = tl.program_id(0)
    tl.store(out + row, uniform(tl.load(seeds + row), tl.load(positions + row)))


def check_sampling(machine: Machine) -> None:
    """The reference's tokens; one draw in a hundred may fall on the other side of a rounded border."""
    rows, vocab = (6, 900) if machine.is_dry else (96, 128256)
    index = torch.arange(rows, device=machine.device)
    seed = torch.randint(0, 2**63 - 1, (rows,), device=machine.device)
    drawn = torch.full((rows,), float("nan"), dtype=torch.float64, device=machine.device)
    uniforms[(rows,)](seed, index, drawn)
    machine.emit(
        "correctness", kernel="uniform", ok=torch.equal(drawn, reference_logits.uniform(seed, index))
    )
    temperature = torch.tensor([0.0, 0.6, 1.0, 1.5], device=machine.device)[index % 4]
    top_k = torch.tensor([0, 20, 1000], device=machine.device, dtype=torch.int32)[index % 3]
    top_p = torch.tensor([1.0, 0.95, 0.5, 0.999, 1.0], device=machine.device)[index % 5]
    for spread in (0.5, 3.0):
        logits = torch.randn(rows, vocab, device=machine.device) * spread
        columns = temperature, top_k, top_p, seed, index
        got, want = sample(logits, *columns), reference.sample(logits, *columns)
        differing = int((got != want).sum())
        machine.emit(
            "correctness", kernel="sample", shape=f"{rows} x {vocab}, spread {spread}",
            differing=differing, limit=rows // 100 + 1, ok=differing <= rows // 100 + 1,
        )  # fmt: skip
        machine.emit("correctness", kernel="greedy", ok=torch.equal(greedy(logits), reference.greedy(logits)))
