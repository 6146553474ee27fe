"""Whole models over the kernels for CUDA, interpreted: the tokens of transformers.

Those with operators of their own: experts, norms of heads, a rotary base that follows the length.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from oracle import SHAPES, greedy, random_model, write

NUM_TOKENS = 3
HERE = Path(__file__).parent


@pytest.mark.parametrize(("name", "longest"), [("qwen3-moe", 12), ("llama-dynamic", 67)])
def test_the_kernels_for_cuda_make_the_tokens_of_transformers(
    name: str, longest: int, tmp_path: Path
) -> None:
    draw = random.Random(2)
    prompts = [[draw.randrange(SHAPES[name].vocab_size) for _ in range(n)] for n in (longest, 1, 9)]
    model = random_model(name)
    path = write(model, tmp_path)
    command = [sys.executable, str(HERE / "interpreted.py"), str(path), json.dumps(prompts), str(NUM_TOKENS)]
    search = os.pathsep.join(filter(None, [str(HERE.parents[1]), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": search}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [greedy(model, prompt, NUM_TOKENS) for prompt in prompts]
