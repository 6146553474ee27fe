"""What every engine's process does: say that it is ready, then answer the driver's lines one by one.

A line in is a JSON object {kind, round, count, vocab_size}; a line out has the seconds, a digest of each
output, and the first tokens of the first. What libraries print goes to stderr. Standard library only.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence

from bench.peers.workload import Request, requests

NUM_FIRST = 16

Run = Callable[[Sequence[Request]], list[list[int]]]  # outputs in the order of the requests


def arguments() -> argparse.Namespace:
    """The options that every engine's module takes. Call it first: it takes stdout away from libraries."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--num-threads", type=int, required=True)
    parser.add_argument("--program", help="of an engine that is no Python library")
    given = parser.parse_args()
    given.answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return given


def serve(given: argparse.Namespace, version: str, run: Run) -> None:
    """Answer until stdin ends. An engine that stops early did another work: it ends with a sentence."""
    print(json.dumps({"ready": True, "version": version}), file=given.answers)
    for line in sys.stdin:
        asked = json.loads(line)
        wanted = requests(asked["kind"], asked["round"], asked["vocab_size"], asked["count"])
        began = time.perf_counter()
        outputs = run(wanted)
        seconds = time.perf_counter() - began
        lengths, due = [len(output) for output in outputs], [one.num_output_tokens for one in wanted]
        if lengths != due:
            raise SystemExit(f"outputs of {lengths[:8]} tokens instead of {due[:8]}")
        answer = {
            "seconds": seconds,
            "num_prompt_tokens": sum(len(one.prompt) for one in wanted),
            "num_output_tokens": sum(due),
            "first_tokens": outputs[0][:NUM_FIRST],
            "digests": [
                hashlib.blake2b(str(output).encode(), digest_size=6).hexdigest() for output in outputs
            ],
        }
        print(json.dumps(answer), file=given.answers)
