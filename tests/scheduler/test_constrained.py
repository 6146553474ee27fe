"""What a sequence whose tokens need masks may and may not do to the steps of others."""

from by_hand import FRONTEND, Engine, Make
from fake_worker import expected_tokens, mask_after

from gllm.protocol.messages import Mask, PassedOver, RejectCode, Rejected, Sampling, Submit
from gllm.protocol.wire import column
from gllm.scheduler.policy import Priority

VOCAB_SIZE = 97


def submit(engine: Engine, prompt: list[int], max_tokens: int, *, n: int = 1, priority: int = 0) -> int:
    """A constrained request, without its masks."""
    request_id = engine.num_submitted
    engine.num_submitted += 1
    request = Submit(
        request_id, column(prompt), [], Sampling(0.0, 0, 1.0, 0), max_tokens, column(), n, priority, 0.0, "",
        is_constrained=True,
    )  # fmt: skip
    assert engine.core.submit(FRONTEND, request, engine.now) is None
    return request_id


def send_mask(engine: Engine, request_id: int, prompt: list[int], output: int = 0) -> Rejected | None:
    """The mask of the output's next token."""
    generated = engine.got.get((request_id, output), [])
    bits = mask_after(prompt + generated, VOCAB_SIZE)
    return engine.core.mask(FRONTEND, Mask(request_id, output, len(generated), bits))


def test_nothing_of_a_request_begins_before_its_first_mask_and_others_pass_it(make: Make) -> None:
    engine = make()
    first = submit(engine, [1, 2, 3], 4)
    assert engine.plan() is None
    second = engine.submit([4, 5, 6], 2)
    engine.step()
    assert [len(engine.got.get((request, 0), ())) for request in (first, second)] == [0, 1]
    assert engine.core.stats(0.0).passed_over[PassedOver.NO_MASK] == 2
    send_mask(engine, first, [1, 2, 3])
    engine.step()
    assert len(engine.got[first, 0]) == 1


def test_it_is_never_in_two_plans_while_others_are(make: Make) -> None:
    engine = make()
    masked = submit(engine, [1, 2, 3], 10)
    free = engine.submit([4, 5, 6], 10)
    send_mask(engine, masked, [1, 2, 3])
    slots = [list(plan.slots) for _ in range(2) if (plan := engine.plan()) is not None]
    assert [len(rows) for rows in slots] == [2, 1]
    engine.commit()
    engine.commit()
    assert [len(engine.got[request, 0]) for request in (masked, free)] == [1, 2]
    # Its next mask is late: the other one goes on without it.
    engine.step()
    engine.step()
    assert [len(engine.got[request, 0]) for request in (masked, free)] == [1, 4]


def test_a_mask_that_was_used_in_vain_is_used_again(make: Make) -> None:
    prompt = [1, 2, 3]
    engine = make()
    masked = submit(engine, prompt, 3)
    send_mask(engine, masked, prompt)
    engine.plan()
    engine.plans.clear()
    engine.core.worker_lost()
    engine.core.worker_ready(engine.worker.ready)
    engine.worker.slots.clear()
    while (masked, 0) not in engine.ended:
        engine.step()
        send_mask(engine, masked, prompt)
    assert engine.got[masked, 0] == expected_tokens(prompt, 3, set(), VOCAB_SIZE, is_constrained=True)


def test_each_output_has_masks_of_its_own(make: Make) -> None:
    prompt = [1, 2, 3]
    engine = make()
    request = submit(engine, prompt, 5, n=3)
    send_mask(engine, request, prompt, output=1)
    engine.step()
    assert set(engine.got) == {(request, 1)}
    while len(engine.ended) < 3:
        for output in range(3):
            send_mask(engine, request, prompt, output)
        engine.step()
    expected = expected_tokens(prompt, 5, set(), VOCAB_SIZE, is_constrained=True)
    assert [engine.got[request, output] for output in range(3)] == [expected] * 3


def test_who_waits_for_a_mask_makes_nobody_leave(make: Make) -> None:
    """Under priorities, the first in the queue takes the place of others: not one that cannot use it."""
    engine = make(policy=Priority(), max_num_seqs=1)
    low = engine.submit([1] * 5, 4, priority=5)
    engine.step()
    high = submit(engine, [2] * 5, 4, priority=-5)
    engine.step()
    assert engine.core.num_preemptions == 0
    assert len(engine.got[low, 0]) == 2
    send_mask(engine, high, [2] * 5)
    engine.step()
    assert engine.core.num_preemptions == 1
    assert len(engine.got[high, 0]) == 1


def test_masks_for_what_is_not_there_are_passed_over(make: Make) -> None:
    engine = make()
    plain = engine.submit([1, 2, 3], 4)
    masked = submit(engine, [1, 2, 3], 4)
    bits = mask_after([1, 2, 3], VOCAB_SIZE)
    for request_id, output, num_generated in [(plain, 0, 0), (masked, 0, 1), (masked, 1, 0), (77, 0, 0)]:
        assert engine.core.mask(FRONTEND, Mask(request_id, output, num_generated, bits)) is None
    assert engine.core.mask(b"another", Mask(masked, 0, 0, bits)) is None
    engine.step()
    assert set(engine.got) == {(plain, 0)}


def test_a_mask_of_another_vocabulary_ends_its_request_and_nothing_else(make: Make) -> None:
    engine = make()
    plain = engine.submit([1, 2, 3], 4)
    masked = submit(engine, [1, 2, 3], 4)
    rejected = engine.core.mask(FRONTEND, Mask(masked, 0, 0, b"\xff" * 8))
    assert rejected is not None
    assert (rejected.request_id, rejected.code) == (masked, RejectCode.INVALID)
    engine.run()
    assert set(engine.ended) == {(plain, 0)}
    engine.core.check()
