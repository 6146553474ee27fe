"""Greedy tokens of a checkpoint by the kernels for CUDA, run in Triton's interpreter: prints them as JSON.

A process of its own, since whether kernels are interpreted is decided when Triton is imported.
"""

import json
import sys
from pathlib import Path

from hand_made import generate, runner_of


def main(path: str, prompts: str, num_tokens: str) -> None:
    runner = runner_of(Path(path), backend="cuda")
    sequences = generate(runner, json.loads(prompts), int(num_tokens), chunk=7)
    print(json.dumps([sequence.generated for sequence in sequences]))


if __name__ == "__main__":
    main(*sys.argv[1:])
