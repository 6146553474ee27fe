"""What one streamed token costs in the gateway by part, each timed alone: medians, microseconds of CPU.

    python -m bench.gateway_parts [--json] [--rows 64] [--model demo/model]

The parts are those of one commit with `--rows` sequences: encoding and decoding of `Tokens`, counting,
detokenizing, making the server-sent event, and the chunk around it (`bench.scheduler` times the scheduler's
plan and commit). What `bench.gateway` shows beyond their sum is the event loop and the system's send.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from gllm.frontend.answer import Usage
from gllm.frontend.choices_answer import CompletionAnswer
from gllm.frontend.request_meters import RequestMeters
from gllm.frontend.text_output import TextDelta
from gllm.frontend.tokenizer import Tokenizer
from gllm.protocol.codec import decode, encode
from gllm.protocol.messages import Sampling, Submit, Tokens
from gllm.protocol.wire import column

NUM_ROUNDS = 300
SAMPLING = Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)


def parts(model: str, num_rows: int) -> dict[str, float]:
    """Microseconds of CPU for one token, by part."""
    tokenizer = Tokenizer.load(Path(model))
    words = tokenizer.encode("the cat sat on a mat and saw nine red birds fly past two old barns")
    numbers = column(range(1, num_rows + 1))
    tokens = column([words[number % len(words)] for number in numbers])
    message = Tokens(numbers, column([0] * num_rows), tokens, [], [])
    data = encode(message)
    meters = RequestMeters()
    for number in numbers:
        meters.submitted(Submit(number, column([1]), [], SAMPLING, 9, column(), 1, 0, 0.0, ""), "")
    meters.delivered(message, 0.0)
    readers = [tokenizer.detokenizer(after=words) for _ in numbers]
    answer = CompletionAnswer("model")
    delta = TextDelta(" word", [5])
    usage = Usage(len(words))
    event = answer.event(0, delta, usage)
    works: dict[str, Callable[[], object]] = {
        "wire: Tokens encoded (scheduler)": lambda: encode(message),
        "wire: Tokens decoded": lambda: decode(data),
        "counting (metrics)": lambda: meters.delivered(message, time.monotonic()),
        "detokenizing": lambda: [
            reader.feed((token,)) for reader, token in zip(readers, tokens, strict=True)
        ],
        "server-sent event": lambda: [answer.event(0, delta, usage) for _ in numbers],
        "chunk": lambda: [b"%x\r\n%b\r\n" % (len(event), event) for _ in numbers],
    }
    return {name: _median_us(work) / num_rows for name, work in works.items()}


def _median_us(work: Callable[[], object]) -> float:
    times = []
    for _ in range(NUM_ROUNDS):
        began = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - began)
    return statistics.median(times) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo/model")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    given = parser.parse_args()
    found = {name: round(us, 3) for name, us in parts(given.model, given.rows).items()}
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    if given.json:
        print(json.dumps({"bench": "gateway_parts", "machine": machine, "rows": given.rows, "us": found}))
        return
    print(f"microseconds a token, {given.rows} rows a commit; {machine}")
    for name, us in found.items():
        print(f"{name:<34}{us:>8.2f}")


if __name__ == "__main__":
    main()
