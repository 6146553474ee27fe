"""Part 3: every kernel's time at real shapes, as a fraction of what the machine's ceilings allow."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.device.batches import Heads, Pool, tables
from bench.device.machine import Machine
from bench.device.timings_experts import time_experts
from gllm.kernels.activation import silu_mul
from gllm.kernels.attention import paged_attention
from gllm.kernels.logits import apply_masks, penalize
from gllm.kernels.logprobs import logprobs
from gllm.kernels.norm import add_rms_norm, rms_norm
from gllm.kernels.rotary import rotary_write
from gllm.kernels.sampling import greedy, sample

LLAMA = (32, 8, 128)  # query heads, key heads, head_dim of an 8B model
TINY = (4, 2, 64)
ROTATED_BYTES = 1 << 29  # inputs rotate over so much memory: ten times the L2 cache
MOST_COPIES = 64
POOL_SHARE = 0.6  # of the free memory
Call = Callable[[], object]


def run(machine: Machine) -> None:
    machine.ceiling("copy")
    machine.ceiling("matmul")
    for page_size in (16, 64):
        heads = Heads(*(TINY if machine.is_dry else LLAMA), page_size)
        machine.attempt(f"decode, page {page_size}", partial(time_decodes, machine, heads))
        machine.attempt(f"prefill, page {page_size}", partial(time_prefills, machine, heads))
    machine.attempt("torch attention", partial(time_torch_attention, machine))
    for num_tokens in (2,) if machine.is_dry else (1, 64, 256, 8192):
        machine.attempt(f"layer, {num_tokens}", partial(time_layer_kernels, machine, num_tokens))
    for rows in (2,) if machine.is_dry else (1, 64, 256):
        machine.attempt(f"sampling, {rows}", partial(time_sampling, machine, rows))
    for num_tokens in (2,) if machine.is_dry else (1, 64, 1024, 8192):
        machine.attempt(f"experts, {num_tokens}", partial(time_experts, machine, num_tokens))
    machine.attempt("host", partial(time_host, machine))


def attention_calls(
    heads: Heads, pool: Pool, rows: list[tuple[int, int]], copies: int, *, is_padded: bool = False
) -> list[Call]:
    """The same rows over `copies` sets of pages. Work lists are made from the tilings in force."""
    before, starts = tables(rows)
    work = heads.work(rows)
    if is_padded:  # as in a graph: programs that fit the chip loop over the list
        work = work.padded(work.num_splits, work.num_decodes)
    work = work.to(pool.device)
    pool.recycle()
    q = pool.queries(rows)
    attend = partial(paged_attention, scale=heads.head_dim**-0.5, groups=work)
    return [
        partial(attend, q, pool.k_pages, pool.v_pages, pool.page_table(rows), before, starts)
        for _ in range(copies)
    ]


def copies_of(machine: Machine, size: int) -> int:
    """How many inputs of so many bytes to rotate over."""
    return 1 if machine.is_dry else max(1, min(MOST_COPIES, -(-ROTATED_BYTES // size)))


def time_decodes(machine: Machine, heads: Heads) -> None:
    batches, contexts = ((2,), (40,)) if machine.is_dry else ((1, 8, 64, 256), (1024, 8192, 32768))
    wanted = 4096 if machine.is_dry else max(batches) * max(contexts)
    fitting = int(POOL_SHARE * machine.free_bytes()) // heads.token_bytes
    pool = Pool(heads, min(wanted, fitting), machine.device)
    for batch in batches:
        for context in contexts:
            name = f"decode {batch} x {context}, {heads}"
            if batch * context > pool.num_pages * heads.page_size:
                machine.emit("skipped", name=name, reason="more keys than the memory holds")
                continue
            machine.attempt(name, partial(time_decode, machine, heads, pool, batch, context))


def time_decode(machine: Machine, heads: Heads, pool: Pool, batch: int, context: int) -> None:
    size = batch * context * heads.token_bytes
    floor = size / machine.ceiling("copy")
    calls = attention_calls(heads, pool, [(context - 1, 1)] * batch, copies_of(machine, size))
    seconds = machine.time(calls, floor)
    machine.emit(
        "timing", kernel="decode attention", shape=str(heads), batch=batch, context=context,
        us=seconds * 1e6, gb_per_s=size / seconds * 1e-9, of_ceiling=floor / seconds,
    )  # fmt: skip


def time_prefills(machine: Machine, heads: Heads) -> None:
    sizes = ((0, 40),) if machine.is_dry else ((0, 2048), (0, 8192), (0, 32768), (30720, 2048))
    pool = Pool(heads, max(before + count for before, count in sizes), machine.device)
    for before, count in sizes:
        name = f"prefill {count} behind {before}, {heads}"
        machine.attempt(name, partial(time_prefill, machine, heads, pool, before, count))


def operations_of(num_heads: int, head_dim: int, before: int, count: int) -> float:
    """Of both products, for the pairs of query and key that the causal mask leaves."""
    return 4.0 * head_dim * num_heads * (count * before + count * (count + 1) / 2)


def time_prefill(machine: Machine, heads: Heads, pool: Pool, before: int, count: int) -> None:
    operations = operations_of(heads.num_heads, heads.head_dim, before, count)
    floor = operations / machine.ceiling("matmul")
    seconds = machine.time(attention_calls(heads, pool, [(before, count)], 1), floor)
    machine.emit(
        "timing", kernel="prefill attention", shape=str(heads), before=before, tokens=count,
        us=seconds * 1e6, tflop_per_s=operations / seconds * 1e-12, of_ceiling=floor / seconds,
    )  # fmt: skip


def time_torch_attention(machine: Machine) -> None:
    """torch's own attention, without pages: a yardstick for prefill."""
    num_heads, num_kv_heads, head_dim = TINY if machine.is_dry else LLAMA
    count = 32 if machine.is_dry else 8192
    q, k, v = (
        torch.randn(1, heads, count, head_dim, device=machine.device).bfloat16()
        for heads in (num_heads, num_kv_heads, num_kv_heads)
    )
    attend = partial(F.scaled_dot_product_attention, q, k, v, is_causal=True, enable_gqa=True)
    operations = operations_of(num_heads, head_dim, 0, count)
    floor = operations / machine.ceiling("matmul")
    seconds = machine.time([attend], floor)
    machine.emit(
        "timing", kernel="torch attention", shape=f"{num_heads}/{num_kv_heads}x{head_dim}", tokens=count,
        us=seconds * 1e6, tflop_per_s=operations / seconds * 1e-12, of_ceiling=floor / seconds,
    )  # fmt: skip


def time_layer_kernels(machine: Machine, num_tokens: int) -> None:
    """The kernels beside attention, for an 8B model; bytes are those that must move."""
    num_heads, num_kv_heads, head_dim = TINY if machine.is_dry else LLAMA
    size, inner = (256, 512) if machine.is_dry else (4096, 14336)
    copies = copies_of(machine, num_tokens * inner * 4)

    def random(*shape: int) -> list[Tensor]:
        return [
            torch.empty(shape, dtype=torch.bfloat16, device=machine.device).normal_() for _ in range(copies)
        ]

    [weight], angle = random(size)[:1], torch.rand(num_tokens, head_dim // 2, device=machine.device)
    pages = random(num_tokens // 16 + 1, 16, num_kv_heads, head_dim)[0]
    locations = torch.randperm(num_tokens, device=machine.device)
    rotate = partial(rotary_write, interleaved=False)
    rotation = angle.cos(), angle.sin(), pages, pages, locations
    xs, residuals = random(num_tokens, size), random(num_tokens, size)
    hidden = num_tokens * size * 2
    turned = num_tokens * head_dim * 2 * (2 * (num_heads + 2 * num_kv_heads) + 2)
    kernels: dict[str, tuple[int, list[Call]]] = {
        "rms_norm": (2 * hidden, [partial(rms_norm, x, weight, 1e-5) for x in xs]),
        "add_rms_norm": (
            4 * hidden,
            [partial(add_rms_norm, x, y, weight, 1e-5) for x, y in zip(xs, residuals, strict=True)],
        ),
        "silu_mul": (
            3 * num_tokens * inner * 2,
            [partial(silu_mul, x) for x in random(num_tokens, 2 * inner)],
        ),
        "rotary_write": (
            turned,
            [
                partial(rotate, x, *rotation)
                for x in random(num_tokens, num_heads + 2 * num_kv_heads, head_dim)
            ],
        ),
    }
    for name, (moved, calls) in kernels.items():
        floor = moved / machine.ceiling("copy")
        seconds = machine.time(calls, max(floor, 2e-6))
        machine.emit(
            "timing", kernel=name, tokens=num_tokens, us=seconds * 1e6,
            gb_per_s=moved / seconds * 1e-9, of_ceiling=floor / seconds,
        )  # fmt: skip


def time_sampling(machine: Machine, rows: int) -> None:
    vocab = 3000 if machine.is_dry else 128256
    size = rows * vocab * 4
    many = [torch.randn(rows, vocab, device=machine.device) * 3 for _ in range(copies_of(machine, size))]
    ones = torch.ones(rows, device=machine.device)
    index = torch.arange(rows, device=machine.device)
    floor = size / machine.ceiling("copy")
    kernels: dict[str, list[Call]] = {"greedy": [partial(greedy, x) for x in many]}
    for top_k, top_p in ((0, 1.0), (0, 0.9), (20, 0.95)):
        columns = ones * 0.8, (ones * top_k).int(), ones * top_p, index, index
        kernels[f"sample, top_k {top_k}, top_p {top_p}"] = [partial(sample, x, *columns) for x in many]
    filters = ones * 0.8, ones.int() * 0, ones
    log_min_p = (ones * 0.05).log()
    kernels["sample, min_p 0.05"] = [partial(sample, x, *filters, index, index, log_min_p) for x in many]
    for num_top in (0, 20):
        kernels[f"logprobs, {num_top}"] = [partial(logprobs, x, index, num_top) for x in many]
    counts = torch.zeros(rows, vocab, dtype=torch.int32, device=machine.device)
    counts[:, ::100] = 1
    kernels["penalize"] = [partial(penalize, x, index, index, counts, ones, ones, ones) for x in many]
    bits = torch.full((rows, -(-vocab // 32)), -2, dtype=torch.int32, device=machine.device)
    kernels["apply_masks"] = [partial(apply_masks, x, index, bits) for x in many]
    for name, calls in kernels.items():
        seconds = machine.time(calls, max(floor, 1e-5))
        machine.emit("timing", kernel=name, rows=rows, us=seconds * 1e6, of_ceiling=floor / seconds)


def time_host(machine: Machine) -> None:
    """What the host pays without a graph: the work lists of a step, and one layer's launches."""
    heads = Heads(*(TINY if machine.is_dry else LLAMA), 16)
    rows = [(4000, 1)] * (2 if machine.is_dry else 256)
    seconds = machine.host_time(partial(heads.work, rows))
    machine.emit("timing", kernel="group_rows on the host", rows=len(rows), us=seconds * 1e6)
    few = [(40, 1), (40, 8)]
    call = attention_calls(heads, Pool(heads, 4096, machine.device), few, 1)[0]
    machine.emit("timing", kernel="launching a mixed batch", rows=2, us=machine.host_time(call) * 1e6)
