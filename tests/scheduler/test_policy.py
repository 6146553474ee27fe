"""What each policy promises, seen in the plans of the real core."""

import pytest
from by_hand import Make
from fake_worker import expected_tokens

from gllm.protocol.messages import PassedOver, RejectCode, Rejected
from gllm.scheduler.policy import Fcfs, Load, Priority, TokenThrottling


def load(**changes: int) -> Load:
    usual = {
        "max_num_batched_tokens": 4096,
        "max_plans_in_flight": 2,
        "num_waiting_tokens": 0,
        "num_decodes": 0,
        "num_pages": 1000,
        "num_free_pages": 1000,
    }
    return Load(**{**usual, **changes})


def test_fcfs_runs_in_order_of_arrival(make: Make) -> None:
    engine = make(max_num_seqs=1)
    for _ in range(3):
        engine.submit([1, 2, 3], 2)
    ends: list[tuple[int, int]] = []
    while engine.step() is not None:
        ends += [key for key in engine.ended if key not in ends]
    assert ends == [(0, 0), (1, 0), (2, 0)]


def test_every_request_begins_within_the_work_before_it(make: Make) -> None:
    """No starvation: under fcfs every step computes at least one token for somebody who came before."""
    engine = make(num_pages=16, max_num_seqs=3, max_num_batched_tokens=8)
    num_tokens_before = 0
    bounds = {}
    for number in range(30):
        prompt = [number] * (1 + number * 7 % 20)
        bounds[engine.submit(prompt, 1 + number % 9), 0] = num_tokens_before + len(prompt)
        num_tokens_before += len(prompt) + 1 + number % 9
    steps = 0
    while engine.step() is not None:
        steps += 1
        for key in engine.got:
            bounds.pop(key, None)  # type: ignore[call-overload]
        assert all(bound >= steps for bound in bounds.values())
    assert not bounds


def test_priority_puts_low_values_first_and_takes_their_place(make: Make) -> None:
    engine = make(policy=Priority(), max_num_seqs=1)
    late = engine.submit([1] * 5, 10, priority=5)
    engine.step()
    engine.step()
    urgent = engine.submit([2] * 5, 3, priority=-1)
    usual = engine.submit([3] * 5, 3, priority=0)
    engine.step()
    assert [s.request_id for s in engine.core.running] == [urgent]
    assert [s.request_id for s in engine.core.waiting] == [usual, late]
    engine.run()
    assert engine.ended[late, 0].num_preemptions == 2 - 1  # type: ignore[index]
    assert engine.got[late, 0] == expected_tokens([1] * 5, 10, set(), 97)  # type: ignore[index]


def test_equal_priority_preempts_nobody(make: Make) -> None:
    engine = make(policy=Priority(), max_num_seqs=1)
    engine.submit([1] * 5, 10, priority=3)
    engine.step()
    engine.submit([2] * 5, 3, priority=3)
    engine.run()
    assert engine.core.num_preemptions == 0


def test_priority_preempts_nobody_where_that_would_not_help(make: Make) -> None:
    engine = make(policy=Priority(), num_pages=10, max_num_seqs=4)
    engine.submit([1] * 20, 12, priority=0)  # five pages that nobody may take
    low = engine.submit([2] * 4, 8, priority=9)
    engine.step()
    engine.submit([3] * 32, 4, priority=5)  # eight pages: not there even without `low`
    engine.step()
    assert low in [s.request_id for s in engine.core.running]


@pytest.mark.parametrize(
    ("waiting", "num_free", "tokens"),
    [
        (0, 1000, 32),  # nothing waits: the minimum
        (4000, 1000, 500),  # spread over 8 steps
        (100_000, 1000, 2048),  # never above the maximum
        (100_000, 525, 1024),  # half of what lies above the threshold is free
        (100_000, 50, 32),  # at the threshold prompts are held back
        (100_000, 0, 32),
    ],
)
def test_throttling_follows_waiting_tokens_and_free_pages(waiting: int, num_free: int, tokens: int) -> None:
    policy = TokenThrottling(min_tokens=32, max_tokens=2048, iterations=8, free_threshold=0.05)
    assert policy.max_prompt_tokens(load(num_waiting_tokens=waiting, num_free_pages=num_free)) == tokens


def test_throttling_spreads_decodes_over_the_plans_in_flight(make: Make) -> None:
    engine = make(policy=TokenThrottling(), max_plans_in_flight=2)
    for number in range(6):
        engine.submit([number] * 3, 30)
    engine.step()
    first, second = engine.plan(), engine.plan()
    assert first is not None
    assert second is not None
    assert len(first.slots) == len(second.slots) == 3
    assert not set(first.slots) & set(second.slots)
    engine.run()
    assert len(engine.ended) == 6


def test_throttling_lets_everybody_come_round_even_one_plan_at_a_time(make: Make) -> None:
    engine = make(policy=TokenThrottling(), max_plans_in_flight=3)
    for number in range(7):
        engine.submit([number] * 3, 40)
    engine.step()
    for _ in range(30):
        engine.step()
    counts = [len(tokens) for tokens in engine.got.values()]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("policy", [Fcfs(), Priority(), TokenThrottling(4, 16, 2, 0.2)])
def test_a_policy_changes_no_token(make: Make, policy: Fcfs) -> None:
    engine = make(policy=policy, num_pages=14, max_num_batched_tokens=12, max_num_seqs=4)
    prompts = [[number, number + 1] * (1 + number % 6) for number in range(12)]
    for number, prompt in enumerate(prompts):
        engine.submit(prompt, 10, priority=number % 3)
    engine.run()
    for number, prompt in enumerate(prompts):
        assert engine.got[number, 0] == expected_tokens(prompt, 10, set(), 97)


def test_why_a_request_waits_is_counted(make: Make) -> None:
    engine = make(max_num_seqs=1, num_pages=16, max_num_batched_tokens=8)
    engine.submit([1] * 20, 8)
    engine.submit([2] * 20, 8)
    engine.submit([3] * 20, 8)
    assert engine.plan() is not None
    assert engine.core.stats(0.0).passed_over == [1, 0, 0, 0, 1]
    waiting = next(iter(engine.core.waiting))
    assert waiting.passed_over[PassedOver.NO_SLOT] == 1
    roomy = make(max_num_batched_tokens=8)
    roomy.submit([1] * 20, 8)
    roomy.submit([2] * 20, 8)
    roomy.step()
    assert roomy.core.stats(0.0).passed_over[PassedOver.NO_TOKENS] == 1
    full = make(num_pages=8)
    full.submit([1] * 20, 8)
    full.submit([2] * 20, 8)
    full.step()
    assert full.core.stats(0.0).passed_over[PassedOver.NO_PAGES] == 1


def test_a_deadline_ends_only_what_has_not_begun(make: Make) -> None:
    engine = make(max_num_seqs=1)
    begun = engine.submit([1] * 5, 10, timeout_s=2.0)
    engine.step()
    waiting = engine.submit([2] * 5, 10, timeout_s=2.0)
    engine.now = 1.9
    assert engine.core.expire(engine.now) == []
    engine.now = 2.0
    ((frontend, rejected),) = engine.core.expire(engine.now)
    assert (frontend, rejected.request_id, rejected.code) == (b"f", waiting, RejectCode.TIMEOUT)
    assert "waited 2.0 s" in rejected.sentence
    engine.run()
    assert list(engine.ended) == [(begun, 0)]


def test_what_the_queue_cannot_take_is_refused_with_the_number_that_it_can(make: Make) -> None:
    engine = make(max_num_queued_reqs=2, max_num_queued_tokens=50, num_pages=8, max_model_len=60)
    said = {}
    for name, (length, max_tokens) in {"long": (60, 1), "large": (20, 20)}.items():
        rejected = engine.submit([1] * length, max_tokens)
        assert isinstance(rejected, Rejected)
        assert rejected.code == RejectCode.TOO_LONG
        said[name] = rejected.sentence
    assert "60 tokens, but at most 59" in said["long"]
    assert "ask for at most 13 new tokens" in said["large"]
    assert engine.submit([1] * 20, 13) == 2
    assert engine.submit([2] * 20, 13) == 3
    rejected = engine.submit([1] * 5, 1)
    assert isinstance(rejected, Rejected)
    assert rejected.code == RejectCode.OVERLOADED
    engine.step()
    rejected = engine.submit([1] * 31, 1)
    assert isinstance(rejected, Rejected)
    assert "20 prompt tokens wait already" in rejected.sentence
    engine.run()


def test_times_of_a_life_are_reported(make: Make) -> None:
    engine = make(max_num_seqs=1, max_num_batched_tokens=4)
    engine.submit([1] * 3, 1)
    engine.submit([2] * 7, 3)
    for _ in range(8):
        engine.now += 1.0
        engine.step()
    finished = engine.ended[1, 0]
    assert (finished.queue_s, finished.prefill_s, finished.decode_s) == (2.0, 1.0, 2.0)
