"""A prefix hit on a page that the same step writes: allowed, since all rows write before any attends."""

from pathlib import Path

import pytest
from hand_made import GREEDY, generate, runner_of
from oracle import random_model, write

from gllm.protocol.messages import Admit, StepPlan
from gllm.protocol.wire import column

PAGE_SIZE = 4
SHARED = [7, 1, 9, 4, 4, 2, 8, 8]  # two full pages


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("reader_first", [True, False])
def test_a_row_may_read_the_pages_that_its_neighbour_writes(
    backend: str, reader_first: bool, tmp_path: Path
) -> None:
    path = write(random_model("llama3"), tmp_path)
    prompts = [[*SHARED, 5, 6, 7], [*SHARED, 11, 3]]
    alone = [generate(runner_of(path, backend=backend), [prompt], 1)[0].generated for prompt in prompts]
    runner = runner_of(path, page_size=PAGE_SIZE, backend=backend)
    writer = Admit(3, column(prompts[0]), len(prompts[0]), 0, column([20, 21, 22]), GREEDY)
    reader = Admit(5, column(prompts[1]), len(prompts[1]), len(SHARED), column([20, 21, 30]), GREEDY)
    slots, counts, none = [3, 5], [11, 2], column()
    if reader_first:
        slots, counts, alone = slots[::-1], counts[::-1], alone[::-1]
    plan = StepPlan(0, 0, column(slots), column(counts), none, none, [reader, writer], none)
    assert list(runner.step(plan)) == alone[0] + alone[1]
    runner.slots.check()
