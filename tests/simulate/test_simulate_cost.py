"""The two models of a step, the fit of one of them, and the cost file."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from made_up import STEP, costs

from gllm.protocol.messages import Admit, StepPlan
from gllm.protocol.wire import column
from gllm.simulate.cost import CostError, Roofline, read_costs
from gllm.simulate.engine import GREEDY
from gllm.simulate.slot_table import SlotTable
from gllm.steps.cost import Fitted
from gllm.steps.fit import fit, non_negative_least_squares
from gllm.steps.shape import StepShape


def shapes() -> list[StepShape]:
    """Decodes and chunks of many sizes."""
    found = []
    for rows, context in itertools.product((1, 4, 16, 64), (10, 100, 1000)):
        found.append(StepShape(rows, rows, 0, rows, rows * context, rows * context))
    for chunks, count, before in itertools.product((1, 3), (8, 64, 512), (0, 500)):
        pairs = chunks * (count * before + count * (count + 1) // 2)
        found.append(StepShape(chunks * count, chunks, chunks, chunks, chunks * (count + before), pairs))
    return found


def test_the_fit_finds_the_coefficients_that_made_the_times() -> None:
    found, error = fit(shapes(), [STEP.seconds(shape) for shape in shapes()])
    assert found.model_dump(exclude={"kind"}) == pytest.approx(STEP.model_dump(exclude={"kind"}))
    assert error.num_steps == len(shapes())
    assert error.p90 < 1e-9


def test_noise_changes_the_coefficients_little_and_none_is_negative() -> None:
    seed = 3
    print(f"seed {seed}")
    draw = random.Random(seed)
    found, error = fit(shapes(), [STEP.seconds(shape) * draw.uniform(0.95, 1.05) for shape in shapes()])
    assert 0.005 < error.median < 0.05
    for name, value in found.model_dump(exclude={"kind"}).items():
        assert value >= 0.0
        if name in ("step_s", "token_s", "pair_s"):
            assert value == pytest.approx(getattr(STEP, name), rel=0.3)


def test_a_term_that_no_step_has_costs_nothing() -> None:
    decodes = [shape for shape in shapes() if not shape.num_chunks]
    found, _ = fit(decodes, [STEP.seconds(shape) for shape in decodes])
    assert found.chunk_s == 0.0


def test_steps_that_are_all_alike_cost_what_they_took() -> None:
    alike = StepShape(8, 8, 0, 8, 80, 80)
    found, error = fit([alike] * 50, [0.002] * 50)
    assert found.seconds(alike) == pytest.approx(0.002)
    assert sum(value > 0 for value in found.model_dump(exclude={"kind"}).values()) == 1
    assert error.p90 < 1e-9


def test_a_first_step_that_compiles_does_not_count_for_all() -> None:
    found, error = fit([*shapes(), shapes()[0]], [*[STEP.seconds(shape) for shape in shapes()], 5.0])
    assert found.step_s == pytest.approx(STEP.step_s, rel=0.02)
    assert error.median < 0.01


def test_no_negative_coefficient_though_plain_least_squares_has_one() -> None:
    matrix, target = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]), np.array([3.0, 2.0, 1.0])
    assert (np.linalg.lstsq(matrix, target, rcond=None)[0] < 0).any()
    assert non_negative_least_squares(matrix, target) == pytest.approx([2.0, 0.0])


def test_the_roofline_follows_from_sizes_and_rates() -> None:
    model = Roofline(
        kind="roofline",
        num_layers=2,
        hidden_size=8,
        num_heads=4,
        num_kv_heads=2,
        head_dim=2,
        intermediate_size=16,
        vocab_size=100,
        bytes_per_element=2,
        matmul_flops_per_s=1e6,
        attention_flops_per_s=1e5,
        bytes_per_s=1e6,
        launch_s=0.5,
    )
    layer = 8 * (8 + 4 + 4 + 8) + 3 * 8 * 16  # q, k, v, o; gate, up, down
    # One decode reads all weights and its context's keys and values, which takes longer than computing.
    decode = StepShape(1, 1, 0, 1, 50, 50)
    weights, kv = 2 * (2 * layer + 800), 50 * 2 * 2 * 4 * 2
    attention = 4 * 2 * 8 * 50
    assert model.seconds(decode) == pytest.approx(0.5 + weights / 1e6 + max(attention / 1e5, kv / 1e6))
    # A long chunk computes for longer than it reads.
    chunk = StepShape(1000, 1, 1, 1, 1000, 500500)
    flops = 2 * (1000 * 2 * layer + 800)
    assert model.seconds(chunk) == pytest.approx(0.5 + flops / 1e6 + 4 * 2 * 8 * 500500 / 1e5)


def test_the_shape_of_a_step_follows_from_plans() -> None:
    table, none = SlotTable(4), column()
    admits = [
        Admit(2, column(range(10)), 10, 4, none, GREEDY),
        Admit(0, column(range(20)), 20, 0, none, GREEDY),
    ]
    plan = StepPlan(1, 0, column([2, 0]), column([6, 8]), none, none, admits, none)
    # Slot 2 computes positions 4..9 and yields a token, slot 0 positions 0..7 of its 20.
    pairs = sum(range(5, 11)) + sum(range(1, 9))
    assert table.take(plan) == StepShape(14, 2, 2, 1, 18, pairs)
    plan = StepPlan(1, 1, column([2, 0]), column([1, 12]), none, none, [], none)
    assert table.take(plan) == StepShape(13, 2, 1, 2, 11 + 20, 11 + sum(range(9, 21)))
    plan = StepPlan(1, 2, column([2, 0]), none, none, none, [], none)
    assert table.take(plan) == StepShape(2, 2, 0, 2, 12 + 21, 12 + 21)


def test_a_cost_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    costs().save(tmp_path / "costs.json")
    assert read_costs(tmp_path / "costs.json") == costs()


def test_the_cost_files_of_the_repository_can_be_read() -> None:
    files = sorted((Path(__file__).parents[2] / "configs" / "costs").glob("*.json"))
    assert files
    for file in files:
        assert read_costs(file).step.seconds(StepShape(1, 1, 0, 1, 1, 1)) > 0


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"step_s": 0.002', '"step_s": -1.0', "step.fitted.step_s: Input should be greater than"),
        ('"kind": "fitted"', '"kind": "guessed"', "step: Input tag 'guessed'"),
        ('"model"', '"modle"', "model: Field required"),
        ("{", "", "Invalid JSON"),
    ],
)
def test_a_wrong_cost_file_says_where(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    file = tmp_path / "costs.json"
    costs().save(file)
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(CostError, match=sentence):
        read_costs(file)


def test_coefficients_are_those_of_their_terms() -> None:
    shape = StepShape(
        num_tokens=7, num_rows=3, num_chunks=2, num_sampled=3, num_context_tokens=50, num_pairs=90
    )
    step = Fitted(step_s=1, token_s=10, row_s=100, chunk_s=1000, context_token_s=10000, pair_s=100000)
    assert step.seconds(shape) == 1 + 70 + 300 + 2000 + 500000 + 9000000
