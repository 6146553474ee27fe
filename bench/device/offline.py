"""Part 5: requests of recorded lengths, all there at the start, until the last has ended."""

import csv
import time
from collections.abc import Iterator
from pathlib import Path

from bench.device.engine import Engine
from bench.device.llama import make, prompt
from bench.device.machine import Machine

LENGTHS = Path(__file__).parent.parent / "data" / "azure2023_conv_lengths.csv"


def lengths() -> Iterator[tuple[int, int]]:
    """Prompt and output tokens of each request."""
    with LENGTHS.open() as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        yield from ((int(row["num_prompt_tokens"]), int(row["num_output_tokens"])) for row in rows)


def run(machine: Machine) -> None:
    runner = make(machine)
    wanted = list(lengths())
    if machine.is_dry:
        wanted = [(1 + into % 40, 1 + out % 3) for into, out in wanted[:6]]
    for cold in (True, False):  # the first run meets every graph and kernel for the first time
        engine = Engine(runner, 2)
        for number, (num_prompt, num_output) in enumerate(wanted):
            engine.submit(prompt(number, num_prompt, runner.slots.vocab_size), num_output)
        began = time.perf_counter()
        engine.run()
        seconds = time.perf_counter() - began
        made = sum(map(len, engine.tokens.values()))
        assert made == sum(out for _, out in wanted)
        read = sum(into for into, _ in wanted)
        machine.emit(
            "offline", trace="azure2023_conv", requests=len(wanted), first_run=cold, seconds=seconds,
            prompt_tokens=read, output_tokens=made, steps=len(engine.steps),
            requests_per_s=len(wanted) / seconds, output_tokens_per_s=made / seconds,
            tokens_per_s=(read + made) / seconds,
        )  # fmt: skip
