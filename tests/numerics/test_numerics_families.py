"""Each family against transformers: greedy ids and prefill logits, alone and in cruel company."""

import random
from pathlib import Path

import pytest
import torch
from hand_made import generate, runner_of
from oracle import SHAPES, greedy, next_logits, random_model, write

NUM_TOKENS = 64
TOLERANCE = 1e-4


def prompts_for(name: str, count: int, seed: int = 1) -> list[list[int]]:
    """Prompts of 1 to 90 tokens; the longest pass llama3.1's original length by far."""
    print(f"prompts of {name} with seed {seed}")
    draw = random.Random(seed)
    lengths = [90, 1, 7, 8, *(draw.randint(2, 90) for _ in range(count))][:count]
    return [[draw.randrange(SHAPES[name].vocab_size) for _ in range(length)] for length in lengths]


class Truth:
    """One family: its checkpoint, and what transformers makes of the prompts."""

    def __init__(self, name: str, path: Path) -> None:
        self.model = random_model(name)
        self.path = write(self.model, path)
        self.prompts = prompts_for(name, 12)
        self.ids = [greedy(self.model, prompt, NUM_TOKENS) for prompt in self.prompts]
        self.logits = [next_logits(self.model, prompt) for prompt in self.prompts]
        # A model that repeats one token would prove nothing; one that ends in a loop now and then is fine.
        kinds = [len(set(ids)) for ids in self.ids]
        assert sum(count > 12 for count in kinds) * 4 >= 3 * len(kinds), kinds


@pytest.fixture(scope="module", params=SHAPES)
def truth(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return Truth(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("page_size", [4, 16])
def test_alone_a_prompt_gets_the_ids_and_logits_of_transformers(truth: Truth, page_size: int) -> None:
    runner = runner_of(truth.path, page_size=page_size)
    for prompt, ids, logits in list(zip(truth.prompts, truth.ids, truth.logits, strict=True))[:4]:
        (sequence,) = generate(runner, [prompt], NUM_TOKENS)
        assert sequence.generated == ids
        torch.testing.assert_close(sequence.first_logits, logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("page_size", [4, 16])
def test_in_a_mixed_batch_of_12_with_chunks_of_7_and_preemptions_nothing_changes(
    truth: Truth, page_size: int
) -> None:
    runner = runner_of(truth.path, page_size=page_size)
    sequences = generate(
        runner, truth.prompts, NUM_TOKENS, chunk=7, admitted_per_step=2, num_preemptions=12, seed=page_size
    )
    for sequence, ids, logits in zip(sequences, truth.ids, truth.logits, strict=True):
        assert sequence.generated == ids
        torch.testing.assert_close(sequence.first_logits, logits, atol=TOLERANCE, rtol=0)
