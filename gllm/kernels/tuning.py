"""How attention and products of few rows are cut into programs, by architecture; never chosen at start-up.

A row changes with the figures that chose it and their date, taken by `bench/device_check.py`:

| date | device | what chose the row |
|---|---|---|
| 2026-11-23 | none | all rows: arithmetic and the compiler's report (registers, shared memory) |
| 2026-11-23 | H200 | (90, 128) is kept: `bench/results/device-h200-2026-11-23.jsonl`, see below |
| 2026-11-25 | H100 | (90, 128) is kept: `bench/results/device-h100-2026-11-25.jsonl`, see below |
| 2026-11-26 | H100 | products: `bench/results/device-h100-decode-2026-11-26.txt` |

Read on the H200, for 8 key heads. Decode of 64 rows of 8k, pages of 16: 516 us with blocks of 64 in 3
stages, 97 % of the copy rate of 4.29 TB/s; other blocks, warps and stages take 515 to 738 us. A single row
of 8k takes 17 us, or 15 with blocks of 128 in 3 stages, which cost 9 % at 64 rows. Splits of 1024 tokens
gain 1 % at 64 rows and make the single row take 26 us. Prefill of 8k, pages of 64: 1.13 ms with 128 registers
in 2 stages, 1.11 without limit in 3, while an earlier run had 1.07 and 1.10: a tie; pages of 16: 1.20 to 1.23
ms with 128 registers, 1.33 or more with others. The matmul rate was 695 TFLOP/s under load, 780 in a burst.

Read on the H100, pages of 64, microseconds for splits of 128, 256, 512 and 1024 tokens: 1 row of 1024 tokens
8.3, 10.0, 13.6, 20.6; 1 of 8192 22.2, 19.5, 18.2, 22.5; 64 of 1024 110, 109, 106, 105; 64 of 8192 815, 765,
742, 729; 256 of 1024 418, 405, 397, 394. A single short row would gain 2 % of its step, batches lose as much.
No other architecture has been timed, and no other head_dim on this one.

The arithmetic, for 8 key heads of 128 in bf16. A key and a value of one head are 512 bytes, so that a split
of 512 tokens is 256 KiB: one row of 32k tokens makes 64 * 8 = 512 programs for 132 multiprocessors, and
the partial results of 4 query heads (4 * 128 float32, written and read) add 1.6 % of traffic. To keep
4.3 TB/s busy over a latency of 0.8 us takes 26 KiB under way on each multiprocessor; two blocks of 64 keys
are 64 KiB. In prefill, 128 query rows make 4.2 MFLOP of 64 keys with their values, 32 KiB: 19 bytes a
cycle of a multiprocessor at 60 % of the tensor cores' rate. More rows do not fit the registers, fewer
would ask more of the L2 cache than it gives. Two programs share a multiprocessor, so that one's
exponentials run beside the other's products: hence the limit of 128 registers, which costs up to 88
bytes of stack where threads compute addresses and 40 where the copy engine does it (pages of 64 tokens).
"""

from dataclasses import dataclass, replace

import triton

SPLIT_TOKENS = 512  # most keys of a decode program, whoever shares the batch
SHORT_CHUNK = 4  # chunks of up to so many tokens attend as so many decodes
INTERPRETED_AS = 90


@dataclass(frozen=True, slots=True)
class DecodeTiling:
    """The size of one program of decode attention."""

    block_n: int  # keys at once
    num_warps: int
    num_stages: int  # blocks of keys under way
    resident: int  # programs that fit a multiprocessor together
    block_m: int = 16  # query heads: the least that the tensor cores take
    split_tokens: int = SPLIT_TOKENS


@dataclass(frozen=True, slots=True)
class PrefillTiling:
    """The size of one program of prefill attention."""

    block_m: int  # query heads times tokens
    block_n: int  # keys at once
    num_warps: int
    num_stages: int  # blocks of keys under way; ids of pages come a stage ahead
    max_registers: int | None = None  # a thread's
    copy_engine: bool = False  # whether it fetches blocks that lie in one page


@dataclass(frozen=True, slots=True)
class ProductTiling:
    """The size of one program of a product of few rows."""

    block_out: int
    block_in: int  # inputs at once
    num_warps: int
    num_stages: int  # blocks of inputs under way
    most_rows: int  # beyond, a library's product is faster


# architecture -> outputs of a weight from which a row holds, falling
PRODUCTS: dict[int, tuple[tuple[int, ProductTiling], ...]] = {
    90: ((8192, ProductTiling(128, 128, 8, 4, 64)), (0, ProductTiling(64, 128, 4, 6, 32))),
}


def has_own_products() -> bool:
    """Whether products of few rows are ours on the current device."""
    return architecture() in PRODUCTS


def product_tiling(num_out: int) -> ProductTiling | None:
    """How a product of few rows is cut, or None where nobody has looked: a library computes it."""
    rows = PRODUCTS.get(architecture())
    return None if rows is None else next(tiling for least, tiling in rows if num_out >= least)


# (architecture, head_dim padded to a power of two) -> decode, prefill
ATTENTION: dict[tuple[int, int], tuple[DecodeTiling, PrefillTiling]] = {
    (80, 64): (DecodeTiling(64, 4, 3, 4), PrefillTiling(128, 64, 8, 2)),
    (80, 128): (DecodeTiling(64, 4, 2, 3), PrefillTiling(128, 32, 8, 3)),
    (80, 256): (DecodeTiling(32, 4, 2, 3), PrefillTiling(64, 32, 8, 2)),
    (90, 64): (DecodeTiling(128, 4, 3, 3), PrefillTiling(128, 64, 8, 3, 128, True)),
    (90, 128): (DecodeTiling(64, 4, 3, 3), PrefillTiling(128, 64, 8, 2, 128, True)),
    (90, 256): (DecodeTiling(32, 4, 3, 3), PrefillTiling(128, 32, 8, 2, None, True)),
    (100, 64): (DecodeTiling(128, 4, 3, 3), PrefillTiling(128, 64, 8, 3, None, True)),
    (100, 128): (DecodeTiling(64, 4, 3, 3), PrefillTiling(128, 64, 8, 2, None, True)),
    (100, 256): (DecodeTiling(32, 4, 3, 3), PrefillTiling(128, 32, 8, 2, None, True)),
}


def attention_tilings(head_dim: int, group: int) -> tuple[DecodeTiling, PrefillTiling]:
    """Decode and prefill tilings on the current device; `group` query heads share a key head."""
    decode, prefill = ATTENTION[row_of(head_dim)]
    if group > decode.block_m:
        decode = replace(decode, block_m=triton.next_power_of_2(group))
    if group > prefill.block_m:
        prefill = replace(prefill, block_m=triton.next_power_of_2(group))
    return decode, prefill


def row_of(head_dim: int) -> tuple[int, int]:
    """The row of the table for the current device: the newest architecture that is not newer."""
    here = architecture()
    fitting = [(arch, size) for arch, size in ATTENTION if arch <= here and head_dim <= size]
    if not fitting:
        raise ValueError(f"attention has no kernel for head_dim {head_dim} on sm_{here}")
    return min(fitting, key=lambda row: (-row[0], row[1]))


def architecture() -> int:
    """Compute capability as Triton counts it, 90 for a Hopper; also in the interpreter."""
    if triton.knobs.runtime.interpret:
        return INTERPRETED_AS
    return int(triton.runtime.driver.active.get_current_target().arch)
