"""bfloat16 and float16: no family strays further from float32 than transformers does in the same type."""

import copy
from pathlib import Path

import pytest
import torch
from hand_made import generate, runner_of
from oracle import SHAPES, next_logits, random_model, write

PROMPTS = [[(11 * i + 5 * j) % 101 for i in range(40)] for j in range(8)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SHAPES)
def test_rounding_errors_are_no_larger_than_those_of_transformers(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = random_model(name, std=0.1)
    path = write(model, tmp_path, dtype)
    truth = torch.stack([next_logits(model, prompt) for prompt in PROMPTS])
    short = copy.deepcopy(model).to(dtype)
    theirs = torch.stack([next_logits(short, prompt).float() for prompt in PROMPTS])
    sequences = generate(runner_of(path, dtype=dtype), PROMPTS, 1)
    ours = torch.stack([sequence.first_logits for sequence in sequences])
    # The median prompt's: where two experts are almost equal, one rounding may choose the other.
    error, allowed = ((found - truth).square().mean(-1).sqrt().median() for found in (ours, theirs))
    spread = truth.std()
    print(f"{name} {dtype}: error {error / spread:.2e}, of transformers {allowed / spread:.2e}")
    assert error <= 1.3 * allowed
    assert error < spread * (0.05 if dtype == torch.bfloat16 else 0.01)
