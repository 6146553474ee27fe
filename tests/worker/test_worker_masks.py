"""The masks of a plan reach the rows that sample, or the plan is refused."""

import numpy as np
import pytest

from gllm.protocol.messages import StepPlan
from gllm.protocol.wire import column
from gllm.worker.masks import masks_of
from gllm.worker.slots import PlanError

SAMPLING = np.array([False, True, True, False, True])
NONE = column()


def plan(rows: list[int], masks: bytes) -> StepPlan:
    return StepPlan(0, 0, column(range(5)), NONE, NONE, NONE, [], NONE, column(rows), masks)


def test_masks_follow_the_sampling_rows() -> None:
    words = np.array([[1, 0], [2, -1]], "<i4")
    masks = masks_of(plan([4, 1], words.tobytes()), SAMPLING, vocab_size=40)
    assert masks is not None
    assert masks.rows.tolist() == [2, 0]
    assert masks.bits.tolist() == words.tolist()
    assert masks_of(plan([], b""), SAMPLING, vocab_size=40) is None


@pytest.mark.parametrize(
    ("rows", "num_bytes", "sentence"),
    [
        ([0], 8, "yields no token"),
        ([5], 8, "not there"),
        ([1, 1], 16, "two for one"),
        ([1], 4, "takes 8"),
        ([1], 12, "takes 8"),
    ],
)
def test_masks_that_do_not_fit_the_plan_are_refused(rows: list[int], num_bytes: int, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        masks_of(plan(rows, b"\1" * num_bytes), SAMPLING, vocab_size=40)
