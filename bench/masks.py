"""What a grammar costs: compiling it, and the mask of each token, with a vocabulary of 150,000 tokens.

python -m bench.masks [--with-xgrammar] [--json FILE]

Walks through answers that fit the schemas, with Qwen2's tokenizer of tests/data. --with-xgrammar measures
that engine on the same walks, where it is installed.
"""

import argparse
import asyncio
import gzip
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gllm.frontend.structured.grammar import COMPILE_TIMEOUT_S, Grammar, Grammars
from gllm.frontend.structured.wish import StructuredOutputs
from gllm.frontend.tokenizer import Tokenizer

DATA = Path(__file__).resolve().parent.parent / "tests" / "data" / "qwen2"
ROWS = 151_936  # of Qwen2's embedding
REPEATS = 20

WORDS = [f"label_{number:03}" for number in range(500)]
CASES: dict[str, tuple[Any, Any]] = {
    "person": (
        {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "age": {"type": "integer"},
                "city": {"type": "string"},
            },
            "required": ["name", "age", "city"],
            "additionalProperties": False,
        },
        {"name": "Grace Brewster Hopper", "age": 85, "city": "New York City"},
    ),
    "orders, with $ref, pattern and bounds": (
        {
            "$defs": {
                "line": {
                    "type": "object",
                    "properties": {
                        "sku": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
                        "quantity": {"type": "integer", "minimum": 1, "maximum": 500},
                        "price": {"type": "number", "minimum": 0},
                    },
                    "required": ["sku", "quantity", "price"],
                    "additionalProperties": False,
                }
            },
            "type": "object",
            "properties": {
                "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}, "maxItems": 20},
                "note": {"anyOf": [{"type": "string", "maxLength": 80}, {"type": "null"}]},
            },
            "required": ["lines", "note"],
            "additionalProperties": False,
        },
        {
            "lines": [{"sku": f"AB-{n:04}", "quantity": n + 1, "price": 2.5 * n} for n in range(6)],
            "note": "deliver to the back door, please",
        },
    ),
    "one of 500 words": ({"enum": WORDS}, WORDS[321]),
    "any JSON object": (
        {"type": "object"},
        {"a": [1, 2.5, None, True], "text": "The quick brown fox jumps over the lazy dog.", "b": {"c": {}}},
    ),
}


@dataclass
class Row:
    engine: str
    case: str
    compile_ms: float  # the first time, and with the first mask
    num_tokens: int
    mean_us: float  # of a token: take it, and the mask of the next
    p99_us: float
    max_us: float


def qwen2() -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("vocab.json", "merges.txt"):
            (root / name).write_bytes(gzip.decompress((DATA / f"{name}.gz").read_bytes()))
        shutil.copy(DATA / "tokenizer_config.json", root)
        (root / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
        return Tokenizer.load(root)


def row(engine: str, case: str, compile_s: float, times: list[float]) -> Row:
    times = sorted(times)
    p99 = times[int(len(times) * 0.99)]
    mean = sum(times) / len(times)
    return Row(engine, case, 1e3 * compile_s, len(times) // REPEATS, 1e6 * mean, 1e6 * p99, 1e6 * times[-1])


def walk(ids: list[int], start: Callable[[], Callable[[int], object]]) -> list[float]:
    """Seconds of each token of `ids`, by a fresh walk for every repeat."""
    times = []
    for _ in range(REPEATS):
        step = start()
        for token in ids:
            began = time.perf_counter()
            step(token)
            times.append(time.perf_counter() - began)
    return times


def begin(grammar: Grammar) -> Callable[[int], object]:
    return grammar.matcher().advance


def by_llguidance(tokenizer: Tokenizer, stops: list[int]) -> list[Row]:
    rows = []
    grammars = Grammars(tokenizer, stops, ROWS)
    asyncio.run(grammars.compile(StructuredOutputs(regex="a")))  # loads the vocabulary
    for case, (schema, answer) in CASES.items():
        ids = tokenizer.encode_literally(json.dumps(answer))
        began = time.perf_counter()
        grammar = asyncio.run(grammars.compile(StructuredOutputs(json=schema)))
        compile_s = time.perf_counter() - began
        assert compile_s < COMPILE_TIMEOUT_S
        rows.append(row("llguidance", case, compile_s, walk(ids, partial(begin, grammar))))
    return rows


def by_xgrammar(tokenizer: Tokenizer, stops: list[int]) -> list[Row]:
    import xgrammar

    pieces = tokenizer.pieces() + [b""] * (ROWS - tokenizer.vocab_size)
    info = xgrammar.TokenizerInfo(
        pieces, vocab_type=xgrammar.VocabType.RAW, vocab_size=ROWS, stop_token_ids=stops
    )
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
    mask = xgrammar.allocate_token_bitmask(1, ROWS)
    rows = []
    for case, (schema, answer) in CASES.items():
        ids = tokenizer.encode_literally(json.dumps(answer))
        began = time.perf_counter()
        compiled = compiler.compile_json_schema(json.dumps(schema))
        xgrammar.GrammarMatcher(compiled).fill_next_token_bitmask(mask)
        compile_s = time.perf_counter() - began

        def start(compiled: Any = compiled) -> Callable[[int], object]:
            matcher = xgrammar.GrammarMatcher(compiled)

            def step(token: int) -> None:
                assert matcher.accept_token(token)
                matcher.fill_next_token_bitmask(mask)

            return step

        rows.append(row("xgrammar", case, compile_s, walk(ids, start)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--with-xgrammar", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    loaded = set(sys.modules)
    tokenizer = qwen2()
    stops = [tokenizer.special_id("<|im_end|>"), tokenizer.special_id("<|endoftext|>")]
    rows = by_llguidance(tokenizer, stops)
    if options.with_xgrammar:
        rows += by_xgrammar(tokenizer, stops)
        print(
            "xgrammar brings with it:",
            *sorted({"torch", "transformers", "numpy"} & set(sys.modules) - loaded),
        )
    print(f"| engine | case | tokens | compile ms | mean us | p99 us | max us |\n|{'---|' * 7}")
    for r in rows:
        times = f"{r.compile_ms:.1f} | {r.mean_us:.0f} | {r.p99_us:.0f} | {r.max_us:.0f}"
        print(f"| {r.engine} | {r.case} | {r.num_tokens} | {times} |")
    if options.json:
        options.json.write_text(json.dumps([vars(r) for r in rows], indent=1))


if __name__ == "__main__":
    main()
