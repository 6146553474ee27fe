"""Bytes on the wire and microseconds to write and read, for each message of a step.

python -m bench.messages [--json]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from gllm.protocol.codec import decode, encode
from gllm.protocol.messages import (
    Admit,
    Cancel,
    Mask,
    Masks,
    Message,
    Sampling,
    StepPlan,
    StepResult,
    Submit,
    Tokens,
    mask_bytes,
)
from gllm.protocol.wire import column

BATCHES = (1, 8, 64, 256, 512)
PAGE_SIZE = 16
STEP_MESSAGES = ("StepPlan", "StepResult", "Tokens")  # every decode step sends each of them once


def messages(batch: int) -> dict[str, Message]:
    """What travels at this batch; a decode step brings every PAGE_SIZE-th row a page."""
    rows = column(range(batch))
    tokens = column(range(1000, 1000 + batch))
    pages = rows[: max(1, batch // PAGE_SIZE)]
    sampling = Sampling(temperature=0.8, top_k=50, top_p=0.95, seed=2**60)
    prompt = column(range(1024))
    admit = Admit(0, prompt, 1024, 0, column(range(64)), sampling)
    return {
        "StepPlan": StepPlan(1, 10**6, rows, column(), pages, pages, [], column()),
        "StepPlan, one admitted": StepPlan(1, 10**6, rows, rows, pages, pages, [admit], column([3])),
        "StepResult": StepResult(1, 10**6, tokens, 2**60, 2**60, 10**4),
        "Tokens": Tokens(rows, column(), tokens, [], []),
        "Submit, 1024 tokens": Submit(7, prompt, [], sampling, 256, column([2]), 1, 0, 0.0, ""),
        "Cancel": Cancel(column([7])),
        "Masks, 151936 tokens": Masks([Mask(7, 0, 100, bytes(mask_bytes(151_936)))]),
    }


def microseconds(action: Callable[[], Any], repeats: int = 25, inner: int = 200) -> float:
    """Median over `repeats` of the mean of `inner` calls."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(inner):
            action()
        times.append((time.perf_counter() - began) / inner * 1e6)
    return statistics.median(times)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    batch: int
    message: str
    bytes: int
    encode_us: float
    decode_us: float


def measure(batch: int) -> list[Row]:
    """One row a message, and one for all of a decode step."""
    rows = []
    for name, message in messages(batch).items():
        data = encode(message)
        encode_us = microseconds(lambda message=message: encode(message))  # type: ignore[misc]
        decode_us = microseconds(lambda data=data: decode(data))  # type: ignore[misc]
        rows.append(Row(batch, name, len(data), round(encode_us, 2), round(decode_us, 2)))
    step = [row for row in rows if row.message in STEP_MESSAGES]
    total = Row(
        batch,
        "all of a step",
        sum(row.bytes for row in step),
        round(sum(row.encode_us for row in step), 2),
        round(sum(row.decode_us for row in step), 2),
    )
    return [*rows, total]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    as_json = parser.parse_args().json
    if not as_json:
        print(f"{'batch':>5}  {'message':<24} {'bytes':>7} {'encode us':>10} {'decode us':>10}")
    for batch in BATCHES:
        for row in measure(batch):
            if as_json:
                print(json.dumps(asdict(row)))
            else:
                print(
                    f"{row.batch:>5}  {row.message:<24} {row.bytes:>7} "
                    f"{row.encode_us:>10.2f} {row.decode_us:>10.2f}"
                )


if __name__ == "__main__":
    main()
