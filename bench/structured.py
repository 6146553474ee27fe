"""What constrained requests cost those beside them in the same steps.

python -m bench.structured [--model demo/model] [--neighbours 16] [--others 16] [--rounds 6] [--json FILE]

One deployment serves `neighbours` plain requests beside `others` that never end; these are plain in one
half of the rounds and constrained by a JSON schema in the other half, in turns. What is compared is the
neighbours' throughput, constrained over plain, in one run: the median of the ratios of two rounds that
follow one another, one of either kind, so that a machine whose speed drifts changes both alike.

All are in the same steps, but not with as many rows: a constrained one has a row in every third or fourth
step only, since its mask follows from its last token, a plain one in every step. Steps are thus shorter
in the constrained half, which makes up for some of what masks cost; `others tok/s` shows by how much they
differ.
"""

import argparse
import asyncio
import json
import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from gllm.config import load
from gllm.frontend.generation import TextEngine
from gllm.frontend.params import SamplingParams
from gllm.frontend.structured.wish import StructuredOutputs
from gllm.offline import OfflineEngine

SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 30},
            "amount": {"type": "integer", "minimum": 0, "maximum": 9999},
            "kind": {"enum": ["first", "second", "third"]},
        },
        "required": ["name", "amount", "kind"],
        "additionalProperties": False,
    },
    "minItems": 1000,  # so that the model cannot end it soon
}
PROMPT = "A list of things and what they cost: "
PLAIN, CONSTRAINED = "plain", "constrained"


@dataclass
class Round:
    others: str
    neighbour_tokens_s: float
    other_tokens_s: float


async def tokens_of(text: TextEngine, seed: int, num_tokens: int, wish: StructuredOutputs | None) -> int:
    """Generate `num_tokens` and count them."""
    params = SamplingParams(
        max_tokens=num_tokens, temperature=1.0, seed=seed, structured_outputs=wish, ignore_eos=wish is None
    )
    count = 0
    async with aclosing(text.stream(text.tokenizer.encode(PROMPT), params)) as stream:
        async for delta in stream:
            count += len(delta.token_ids)
    return count


async def one_round(text: TextEngine, options: argparse.Namespace, others: str, seed: int) -> Round:
    wish = StructuredOutputs(json=SCHEMA) if others == CONSTRAINED else None
    counts = [0] * options.others

    async def go_on(number: int) -> None:
        while True:
            counts[number] += await tokens_of(text, seed + number, 32, wish)

    running = [asyncio.create_task(go_on(number)) for number in range(options.others)]
    while not all(counts) and not any(task.done() for task in running):
        await asyncio.sleep(0.01)
    before, began = sum(counts), time.perf_counter()
    done = await asyncio.gather(
        *[tokens_of(text, seed - number, options.tokens, None) for number in range(options.neighbours)]
    )
    seconds = time.perf_counter() - began
    during = sum(counts) - before
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return Round(others, sum(done) / seconds, during / seconds)


async def all_rounds(text: TextEngine, options: argparse.Namespace) -> list[Round]:
    await one_round(text, options, CONSTRAINED, 0)  # to warm up
    kinds = [PLAIN, CONSTRAINED, CONSTRAINED, PLAIN]
    return [
        await one_round(text, options, kinds[number % 4], 10_000 * number + 5000)
        for number in range(2 * options.rounds)
    ]


def ratios(rounds: list[Round]) -> list[float]:
    """The neighbours' throughput, constrained over plain, of each two rounds in turn."""
    pairs = [
        {one.others: one.neighbour_tokens_s for one in rounds[i : i + 2]} for i in range(0, len(rounds), 2)
    ]
    return [pair[CONSTRAINED] / pair[PLAIN] for pair in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo/model")
    parser.add_argument("--neighbours", type=int, default=16)
    parser.add_argument("--others", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="of each neighbour")
    parser.add_argument("--rounds", type=int, default=6, help="of either kind")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    engine = OfflineEngine(load(None, None, model=options.model, max_num_seqs=64))
    try:
        rounds = engine.call(all_rounds(engine.text, options))
    finally:
        engine.close()
    print(f"| {options.others} others are | neighbours tok/s | others tok/s |\n|---|---|---|")
    for kind in (PLAIN, CONSTRAINED):
        mine = [one for one in rounds if one.others == kind]
        speed = median(one.neighbour_tokens_s for one in mine)
        print(f"| {kind} | {speed:.0f} | {median(one.other_tokens_s for one in mine):.0f} |")
    found = ratios(rounds)
    print(
        f"neighbours' throughput, constrained over plain: {median(found):.3f} "
        f"(pairs of rounds: {min(found):.3f} to {max(found):.3f})"
    )
    if options.json:
        options.json.write_text(json.dumps([vars(one) for one in rounds], indent=1))


if __name__ == "__main__":
    main()
