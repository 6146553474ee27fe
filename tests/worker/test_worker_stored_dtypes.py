"""Weights of 16 bits stay so on a CPU that computes in float32, and nothing is computed otherwise."""

from pathlib import Path

import pytest
import torch

from gllm.checkpoint import open_checkpoint
from gllm.kernels.dispatch import operators
from gllm.kernels.native.library import library
from gllm.worker.demand import plan_for
from gllm.worker.look_through import look_through
from gllm.worker.models import load_model
from gllm.worker.options import WorkerOptions
from tests.numerics.hand_made import generate, runner_of
from tests.numerics.oracle import random_model, write

pytestmark = pytest.mark.skipif(
    library() is None, reason="torch's operators have no products of unlike dtypes: all weights are float32"
)
PROMPTS = [[3, 1, 4, 1, 5], list(range(40))]


@pytest.mark.parametrize("shape", ["llama3.1", "qwen3-moe", "glm4"])
def test_a_checkpoint_in_bfloat16_gives_the_logits_of_the_same_in_float32(shape: str, tmp_path: Path) -> None:
    model = random_model(shape)
    short = write(model, tmp_path / "short", torch.bfloat16)  # rounds the model's own weights, too
    long = write(model, tmp_path / "long", torch.float32)
    made = [generate(runner_of(path), PROMPTS, 8) for path in (short, long)]
    for one, other in zip(*made, strict=True):
        assert one.generated == other.generated
        assert one.first_logits is not None
        assert other.first_logits is not None
        assert torch.equal(one.first_logits, other.first_logits)


def test_what_is_kept_in_16_bits_counts_so_in_the_memory_plan(tmp_path: Path) -> None:
    model = random_model("llama2")
    needs = {}
    for dtype in (torch.bfloat16, torch.float32):
        path = write(model, tmp_path / str(dtype), dtype)
        options = WorkerOptions(path, num_pages=64)
        needs[dtype] = plan_for(options, look_through(options)).demand.weight_bytes
        decoder = load_model(
            open_checkpoint(path), torch.float32, torch.device("cpu"), operators("cpu", torch.float32)
        )
        assert decoder.lm_head.stored_dtype == dtype
        assert decoder.embed.weight.dtype == torch.float32
    facts = look_through(options).facts
    embedding = facts.vocab_size * facts.hidden_size
    matrices = facts.num_parameters() - embedding
    assert needs[torch.float32] == 4 * facts.num_parameters()
    assert 4 * embedding + 2 * matrices < needs[torch.bfloat16] < 4 * embedding + 2.1 * matrices
