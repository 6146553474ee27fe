"""Laws of the virtual clock, and of what the real core does under it."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from made_up import STEP, config, costs, trace

from gllm.protocol.messages import RejectCode
from gllm.simulate.cost import CostError, Overheads
from gllm.simulate.engine import Run, simulate, worker_ready
from gllm.steps.shape import StepShape
from gllm.traces import Trace

OVERHEADS = Overheads(submit_s=0.003, plan_s=0.0004, result_s=0.0006, deliver_s=0.005)
REQUESTS = st.lists(
    st.tuples(st.floats(0.0, 0.2), st.integers(1, 200), st.integers(1, 30)), min_size=1, max_size=20
)


def arriving(requests: list[tuple[float, int, int]]) -> Trace:
    return trace(*sorted(requests))


def tokens_of(run: Run) -> list[int]:
    """How many tokens each request got."""
    return np.bincount(run.deliveries.columns()[0], minlength=len(run.trace.requests)).tolist()


def test_one_request_takes_the_way_and_its_steps() -> None:
    run = simulate(trace((0.0, 100, 3)), config(), costs(OVERHEADS))
    prompt = STEP.seconds(StepShape(100, 1, 1, 1, 100, 5050))
    decodes = [STEP.seconds(StepShape(1, 1, 0, 1, context, context)) for context in (101, 102)]
    first = 0.003 + 0.0004 + prompt + 0.0006 + 0.005
    # Two plans in flight: decodes follow the prompt without a pause.
    expected = [first, first + decodes[0], first + sum(decodes)]
    assert run.deliveries.columns()[1] == pytest.approx(expected)
    assert run.duration_s == pytest.approx(expected[-1])


def test_with_one_plan_in_flight_each_step_waits_for_the_way_there_and_back() -> None:
    run = simulate(trace((0.0, 100, 3)), config(num_micro_batches=1), costs(OVERHEADS))
    times = run.deliveries.columns()[1]
    decode = STEP.seconds(StepShape(1, 1, 0, 1, 101, 101))
    assert times[1] - times[0] == pytest.approx(decode + 0.001)


@settings(max_examples=60, deadline=None)
@given(REQUESTS, st.sampled_from([8, 64, 1024]))
def test_one_plan_in_flight_without_overheads_takes_the_sum_of_its_steps(
    requests: list[tuple[float, int, int]], budget: int
) -> None:
    at_once = arriving([(0.0, num_prompt, num_output) for _, num_prompt, num_output in requests])
    run = simulate(at_once, config(num_micro_batches=1, max_num_batched_tokens=budget), costs())
    assert run.duration_s == pytest.approx(run.busy_s)


@settings(max_examples=60, deadline=None)
@given(REQUESTS)
def test_a_second_plan_in_flight_is_never_slower(requests: list[tuple[float, int, int]]) -> None:
    # All at once and with room for all: otherwise another depth admits in other steps.
    at_once = arriving([(0.0, num_prompt, num_output) for _, num_prompt, num_output in requests])
    one, two = (
        simulate(at_once, config(num_micro_batches=depth), costs(OVERHEADS)).duration_s for depth in (1, 2)
    )
    assert two <= one + 1e-9


@settings(max_examples=60, deadline=None)
@given(REQUESTS, st.integers(1, 3), st.sampled_from([4, 32, 1024]), st.integers(1, 8), st.integers(15, 60))
def test_every_request_gets_its_length_at_any_depth_and_in_few_pages(
    requests: list[tuple[float, int, int]], depth: int, budget: int, max_num_seqs: int, num_pages: int
) -> None:
    options = config(
        num_micro_batches=depth,
        max_num_batched_tokens=budget,
        max_num_seqs=max_num_seqs,
        num_gpu_blocks_override=num_pages,
    )
    run = simulate(arriving(requests), options, costs(OVERHEADS))
    assert not run.refusals
    assert tokens_of(run) == [num_output for _, _, num_output in sorted(requests)]
    sent = np.array([request.arrival_s for request in run.trace.requests])
    ids, times = run.deliveries.columns()
    assert (times > sent[ids]).all()
    assert (np.diff(times) >= 0).all()


def test_few_pages_lead_to_preemptions_and_cost_time() -> None:
    requests = arriving([(0.0, 100, 400)] * 8)
    enough = simulate(requests, config(), costs())
    few = simulate(requests, config(num_gpu_blocks_override=100), costs())
    assert enough.stats.num_preemptions == 0
    assert few.stats.num_preemptions > 0
    assert few.duration_s > enough.duration_s
    assert tokens_of(few) == tokens_of(enough) == [400] * 8


def test_a_run_can_be_repeated_exactly() -> None:
    requests = arriving([(0.01 * (7 * i % 10), 1 + 37 * i % 150, 1 + 5 * i % 23) for i in range(40)])
    one, two = (simulate(requests, config(max_num_seqs=4), costs(OVERHEADS)) for _ in range(2))
    assert one.deliveries == two.deliveries
    assert one.stats == two.stats


def test_what_cannot_be_served_is_refused_and_the_rest_is_served() -> None:
    requests = trace((0.0, 5000, 2), (0.1, 50, 2))
    run = simulate(requests, config(), costs())
    assert run.refusals == {0: RejectCode.TOO_LONG}
    assert tokens_of(run) == [0, 2]


def test_a_full_queue_refuses() -> None:
    run = simulate(trace(*[(0.0, 50, 20)] * 5), config(max_num_queued_reqs=2), costs())
    assert set(run.refusals.values()) == {RejectCode.OVERLOADED}
    assert len(run.refusals) == 3


def test_the_hit_rate_is_the_traces_bound_when_pages_suffice() -> None:
    # Conversations whose turns end with a block of their own: the core never shares a prompt's last token.
    blocks = tuple(
        (*(100 * talk + turn for turn in range(1 + turns)), 100 * talk + 50 + turns)
        for turns in range(5)
        for talk in range(3)
    )
    rows = [(0.5 * number, 32 * len(block) - 5, 4) for number, block in enumerate(blocks)]
    made = trace(*rows, block_size=32, blocks=blocks)
    stats = simulate(made, config(), costs()).stats
    assert stats.num_prefix_hit_tokens / stats.num_prefix_query_tokens == made.shareable() > 0.3
    assert simulate(made, config(disable_radix_cache=True), costs()).stats.num_prefix_hit_tokens == 0


def test_the_cache_gets_what_the_weights_leave() -> None:
    made = costs()
    by_share = worker_ready(config(gpu_memory_utilization=0.5), made)
    assert by_share.num_pages == (5 * 10**8 - 10**6) // (1000 * 16)
    assert worker_ready(config(kv_cache_memory_bytes="1MiB", page_size=32), made).num_pages == 2**20 // 32000
    assert worker_ready(config(max_model_len=100), made).max_model_len == 100
    with pytest.raises(CostError, match="made for 4096"):
        worker_ready(config(max_model_len=5000), made)
    with pytest.raises(CostError, match="would have 0 pages"):
        worker_ready(config(kv_cache_memory_bytes=1000), made)
