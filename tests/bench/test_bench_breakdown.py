"""The arithmetic of intervals, and a breakdown that was counted by hand."""

import random

import pytest

from gllm.bench.breakdown import (
    FORWARD,
    OUTPUT,
    SAMPLE,
    SCHEDULE,
    Interval,
    Timed,
    breakdown,
    common,
    length,
    of_trace,
    union,
)
from gllm.timeline import Span, Trace

MS = 10**6


def instants(intervals: list[Interval]) -> set[int]:
    return {instant for start, end in intervals for instant in range(start, end)}


def test_unions_and_what_they_have_in_common_hold_the_same_instants() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        one, other = (
            [(start, start + rng.randrange(6)) for start in rng.choices(range(40), k=rng.randrange(9))]
            for _ in range(2)
        )
        first, second = union(one), union(other)
        assert instants(first) == instants(one), seed
        assert length(first) == len(instants(one)), seed
        assert instants(common(first, second)) == instants(one) & instants(other), seed
        assert length(common(first, second)) == len(instants(one) & instants(other)), seed


def test_a_breakdown_counted_by_hand() -> None:
    timed: list[Timed] = [
        (SCHEDULE, 0, 10 * MS),  # before the first step
        (FORWARD, 10 * MS, 50 * MS),
        (SAMPLE, 50 * MS, 60 * MS),
        (SCHEDULE, 20 * MS, 24 * MS),  # beside it
        (OUTPUT, 58 * MS, 66 * MS),  # begins beside it, ends behind it
        (OUTPUT, 60 * MS, 64 * MS),  # another process's, at the same time
        (FORWARD, 66 * MS, 200 * MS),  # reaches beyond the run
        (FORWARD, 300 * MS, 400 * MS),  # of another run
    ]
    found = breakdown(timed, 0, 100 * MS)
    assert found is not None
    assert found.total_s == 0.1
    assert found.idle_s == pytest.approx(0.016)
    assert found.parts == pytest.approx({FORWARD: 0.074, SAMPLE: 0.01, SCHEDULE: 0.014, OUTPUT: 0.008})
    assert found.overlapped == pytest.approx({SCHEDULE: 0.004, OUTPUT: 0.002})
    lines = list(found.lines())
    assert lines[1].split() == ["model", "forward", "0.074", "74.0%"]
    assert lines[4].split() == ["schedule", "0.014", "14.0%", "28.6%"]


def test_a_run_in_which_the_model_never_ran_has_no_breakdown() -> None:
    assert breakdown([], 0, MS) is None
    assert breakdown([(FORWARD, 2 * MS, 3 * MS)], 0, MS) is None


def test_a_step_whose_parts_are_not_told_apart_is_all_forward() -> None:
    split = Span("worker", "step 1", 0, 10, {"step": 1, "forward_ns": 7, "sample_ns": 3})
    whole = Span("worker", "step 2", 10, 20, {"step": 2})
    assert list(of_trace(Trace([split, whole]))) == [
        (FORWARD, 0, 7), (SAMPLE, 7, 10), (FORWARD, 10, 20), (SAMPLE, 20, 20),
    ]  # fmt: skip
