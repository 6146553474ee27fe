"""Part "tune": attention under other tilings and splits, for the table in `gllm/kernels/tuning.py`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

from bench.device.batches import Heads, Pool
from bench.device.machine import Machine
from bench.device.timings import LLAMA, TINY, attention_calls, copies_of, operations_of
from gllm.kernels.tuning import ATTENTION, DecodeTiling, PrefillTiling, row_of

DECODES = (
    DecodeTiling(64, 4, 2, 4),
    DecodeTiling(64, 4, 3, 3),
    DecodeTiling(64, 4, 4, 2),
    DecodeTiling(64, 4, 5, 2),
    DecodeTiling(64, 8, 3, 3),
    DecodeTiling(64, 2, 3, 3),
    DecodeTiling(32, 4, 3, 4),
    DecodeTiling(32, 2, 4, 4),
    DecodeTiling(32, 1, 4, 4),
    DecodeTiling(32, 4, 5, 4),
    DecodeTiling(128, 4, 2, 2),
    DecodeTiling(128, 8, 2, 2),
    DecodeTiling(128, 4, 3, 1),
    DecodeTiling(128, 8, 3, 1),
    DecodeTiling(64, 4, 3, 3, split_tokens=256),
    DecodeTiling(64, 4, 3, 3, split_tokens=1024),
    DecodeTiling(64, 4, 3, 3, split_tokens=2048),
)
PREFILLS = tuple(
    PrefillTiling(block_m, block_n, num_warps, num_stages, max_registers, copy_engine)
    for copy_engine in (True, False)
    for block_m, block_n, num_warps, num_stages, max_registers in (
        (128, 64, 8, 2, 128),
        (128, 64, 8, 2, None),
        (128, 64, 8, 3, None),
        (128, 64, 8, 4, None),
        (128, 128, 8, 2, None),
        (128, 128, 8, 3, None),
        (128, 32, 8, 3, 128),
        (64, 64, 4, 2, None),
        (64, 64, 4, 3, None),
        (256, 64, 8, 2, None),
        (128, 32, 8, 3, None),
        (64, 128, 4, 2, None),
        (128, 64, 4, 2, None),
    )
)


@contextmanager
def in_force(
    heads: Heads, *, decode: DecodeTiling | None = None, prefill: PrefillTiling | None = None
) -> Iterator[None]:
    """Work lists made inside use these."""
    key = row_of(heads.head_dim)
    kept = ATTENTION[key]
    ATTENTION[key] = (decode or kept[0], prefill or kept[1])
    try:
        yield
    finally:
        ATTENTION[key] = kept


def run(machine: Machine) -> None:
    shape = TINY if machine.is_dry else LLAMA
    batches = ((2, 40),) if machine.is_dry else ((64, 8192), (1, 32768), (1, 8192), (8, 8192))
    step = len(DECODES) - 1 if machine.is_dry else 1
    for page_size in (64, 16):
        heads = Heads(*shape, page_size)
        pool = Pool(heads, 4096 if machine.is_dry else 64 * 8192 * 2, machine.device)
        tries: list[tuple[str, Callable[[], None]]] = []
        for prefill in PREFILLS[::step]:
            if page_size % prefill.block_n == 0 or not prefill.copy_engine:
                tries.append((str(prefill), partial(try_prefill, machine, heads, pool, prefill)))
        try_these = partial(try_decode, machine, heads, pool, batches)
        tries += [(str(decode), partial(try_these, decode=decode)) for decode in DECODES[::step]]
        tries.append(("padded", partial(try_these, is_padded=True)))
        for name, try_it in machine.shared(tries):
            machine.attempt(f"{name}, page {page_size}", try_it)


def try_prefill(machine: Machine, heads: Heads, pool: Pool, tiling: PrefillTiling) -> None:
    count = 40 if machine.is_dry else 8192
    operations = operations_of(heads.num_heads, heads.head_dim, 0, count)
    floor = operations / machine.ceiling("matmul")
    with in_force(heads, prefill=tiling):
        seconds = machine.time(attention_calls(heads, pool, [(0, count)], 1), floor)
    machine.emit(
        "tuning", kernel="prefill attention", shape=str(heads), tokens=count, us=seconds * 1e6,
        of_ceiling=floor / seconds, **asdict(tiling),
    )  # fmt: skip


def try_decode(
    machine: Machine,
    heads: Heads,
    pool: Pool,
    batches: tuple[tuple[int, int], ...],
    *,
    decode: DecodeTiling | None = None,
    is_padded: bool = False,
) -> None:
    for batch, context in batches:
        size = batch * context * heads.token_bytes
        floor = size / machine.ceiling("copy")
        copies = min(copies_of(machine, size), pool.num_pages * heads.page_size // (batch * context))
        rows = [(context - 1, 1)] * batch
        with in_force(heads, decode=decode):
            calls = attention_calls(heads, pool, rows, copies, is_padded=is_padded)
            tiling = heads.work(rows).decode
            seconds = machine.time(calls, floor)
        machine.emit(
            "tuning", kernel="decode attention", shape=str(heads), batch=batch, context=context,
            is_padded=is_padded, us=seconds * 1e6, of_ceiling=floor / seconds, **asdict(tiling),
        )  # fmt: skip
