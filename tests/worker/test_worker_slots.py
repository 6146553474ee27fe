"""The slot tables and the batch made of them: what they hold, and which plans they refuse."""

import random

import numpy as np
import pytest
import torch

from gllm.protocol.messages import Admit, Sampling, StepPlan
from gllm.protocol.wire import column
from gllm.worker.batch import build_batch, with_last_tokens
from gllm.worker.slots import PlanError, Slots

GREEDY = Sampling(0.0, 0, 1.0, 0)


def tables(**changes: int) -> Slots:
    limits = {
        "num_slots": 4,
        "num_pages": 10,
        "page_size": 4,
        "max_model_len": 22,
        "vocab_size": 50,
    } | changes
    return Slots(**limits, device=torch.device("cpu"))


def admit(
    slot: int, tokens: list[int], pages: list[int], computed: int = 0, num_prompt_tokens: int | None = None
) -> Admit:
    if num_prompt_tokens is None:
        num_prompt_tokens = len(tokens)
    return Admit(slot, column(tokens), num_prompt_tokens, computed, column(pages), GREEDY)


def plan(
    slots: list[int] = (),
    counts: list[int] = (),
    *,
    pages: list[tuple[int, int]] = (),
    admits: list[Admit] = (),
    released: list[int] = (),
) -> StepPlan:
    return StepPlan(
        epoch=0,
        step=0,
        slots=column(slots),
        counts=column(counts),
        page_slots=column([slot for slot, _ in pages]),
        new_pages=column([page for _, page in pages]),
        admits=list(admits),
        released=column(released),
    )


def run(slots: Slots, given: StepPlan) -> None:
    slots.apply(given)
    slots.advance(*slots.rows(given))


def test_releases_come_before_admits_and_admits_before_pages() -> None:
    slots = tables()
    run(slots, plan([1], [3], admits=[admit(1, [1, 2, 3], [5])]))
    slots.check()
    assert (slots.num_tokens[1], slots.num_computed[1]) == (4, 3)
    # The slot changes hands within one plan.
    swap = plan([1], [2], released=[1], admits=[admit(1, [9, 8], [7])], pages=[(1, 2), (1, 3)])
    run(slots, swap)
    slots.check()
    assert slots.page_table[1, :3].tolist() == [7, 2, 3]
    assert slots.known[1].tolist() == [9, 8]


def test_a_slot_knows_which_of_its_tokens_are_the_prompt() -> None:
    slots = tables()
    slots.apply(plan(admits=[admit(2, [5, 6, 7, 8], [0], num_prompt_tokens=3)]))
    slots.check()
    assert slots.num_prompt_tokens.tolist() == [0, 0, 3, 0]
    slots.apply(plan(released=[2]))
    slots.check()
    for wrong in (0, 5):
        with pytest.raises(PlanError, match=f"admits 4 tokens, {wrong} of a prompt"):
            tables().apply(plan(admits=[admit(2, [5, 6, 7, 8], [0], num_prompt_tokens=wrong)]))


def test_pages_of_several_slots_may_come_mixed() -> None:
    slots = tables()
    slots.apply(plan(admits=[admit(0, [1] * 20, [0]), admit(2, [1] * 20, []), admit(3, [1] * 20, [9])]))
    slots.apply(plan(pages=[(2, 4), (0, 1), (2, 5), (3, 8), (0, 2), (2, 6)]))
    slots.check()
    assert slots.num_pages.tolist() == [3, 0, 3, 2]
    assert slots.page_table[[0, 2, 3], :3].tolist() == [[0, 1, 2], [4, 5, 6], [9, 8, 0]]


def test_a_row_samples_when_it_reaches_the_end_of_what_the_sequence_has() -> None:
    slots = tables()
    given = plan(
        [2, 0], [3, 2], admits=[admit(0, [7, 8, 9, 10, 11], [4, 1], computed=3), admit(2, [1] * 5, [3, 2])]
    )
    slots.apply(given)
    batch = build_batch(given, *slots.rows(given), slots, lambda *_: None)
    assert batch.token_ids.tolist() == [1, 1, 1, 10, 11]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4]
    assert batch.locations.tolist() == [12, 13, 14, 19, 4]  # slot 2: page 3; slot 0: end of page 4, page 1
    assert batch.query_start.tolist() == [0, 3, 5]
    assert batch.num_computed.tolist() == [0, 3]
    assert batch.sampling_tokens.tolist() == [4]
    assert batch.sampling_slots.tolist() == [0]
    assert batch.sampled_position.tolist() == [5]
    slots.advance(*slots.rows(given))
    slots.last_token[0] = 42
    mixed = plan([0, 2], [1, 2])
    slots.apply(mixed)
    batch = build_batch(mixed, *slots.rows(mixed), slots, lambda *_: None)
    assert batch.token_ids.tolist() == [-1 - 0, 1, 1]
    assert with_last_tokens(batch.token_ids, slots.last_token).tolist() == [42, 1, 1]
    assert batch.sampling_slots.tolist() == [0, 2]
    assert batch.sampled_position.tolist() == [6, 5]
    slots.advance(*slots.rows(mixed))
    slots.last_token[2] = 43
    decode = plan([2, 0])
    batch = build_batch(decode, *slots.rows(decode), slots, lambda *_: None)
    assert with_last_tokens(batch.token_ids, slots.last_token).tolist() == [43, 42]
    assert batch.positions.tolist() == [5, 6]
    slots.check()


BAD_PLANS = {
    "a slot that is not there": plan([4]),
    "a slot without a sequence": plan([3]),
    "a slot twice": plan([0, 0]),
    "more tokens than are known": plan([1], [6]),
    "no token": plan([1], [0]),
    "tokens without pages": plan([2], [5]),
    "release of a slot that is not in use": plan([0], released=[3]),
    "release of a slot that is not there": plan([0], released=[65000]),
    "admission to a slot in use": plan([0], admits=[admit(0, [1], [9])]),
    "admission to a slot that is not there": plan([0], admits=[admit(4, [1], [9])]),
    "no tokens": plan([0], admits=[admit(3, [], [9])]),
    "all tokens computed": plan([0], admits=[admit(3, [1, 2], [9], computed=2)]),
    "computed tokens without pages": plan([0], admits=[admit(3, [1] * 9, [9], computed=5)]),
    "a token beyond the vocabulary": plan([0], admits=[admit(3, [50], [9])]),
    "more tokens than the model takes": plan([0], admits=[admit(3, [1] * 23, [9])]),
    "a page that is not there": plan([0], pages=[(0, 10)]),
    "an admitted page that is not there": plan([0], admits=[admit(3, [1], [2**31 - 1])]),
    "more pages than a sequence takes": plan([0], pages=[(0, page) for page in range(6)]),
    "a page for a slot that is not in use": plan([0], pages=[(3, 9)]),
    "a page for a slot that is not there": plan([0], pages=[(9, 9)]),
}


@pytest.mark.parametrize("name", BAD_PLANS)
def test_a_plan_that_cannot_be_is_refused(name: str) -> None:
    slots = tables()
    sequences = [admit(0, [1], [0]), admit(1, [1] * 5, [1, 2]), admit(2, [1] * 8, [3])]
    run(slots, plan([0, 1, 2], [1, 2, 2], admits=sequences))
    slots.check()
    with pytest.raises(PlanError):
        run(slots, BAD_PLANS[name])


def test_the_devices_page_table_follows_what_every_step_brings_along() -> None:
    slots = tables()
    device_tables = Slots(4, 10, 4, 22, 50, torch.device("cpu"), pages_on_device=True)
    admits = [admit(0, [1] * 20, [0, 5]), admit(2, [1] * 20, []), admit(3, [1] * 20, [9])]
    for given in (
        plan(admits=admits),
        plan([3, 0], [4, 8], pages=[(2, 4), (0, 1), (2, 3), (3, 8)]),
        plan([2], [4], released=[0], admits=[admit(0, [1, 2], [7])], pages=[(0, 6), (2, 2)]),
    ):
        for each in (slots, device_tables):
            run(each, given)
        device_tables.write_pages(device_tables.take_page_writes())
        for slot in range(4):
            held = slots.page_table[slot, : slots.num_pages[slot]].tolist()
            assert device_tables.device_pages[slot, : len(held)].tolist() == held
    assert len(device_tables.take_page_writes().pages) == 0


def test_random_plans_leave_tables_that_agree() -> None:
    seed = 8
    print("seed", seed)
    draw = random.Random(seed)
    slots = tables(num_slots=8, num_pages=60, max_model_len=40)
    free_pages, held = list(range(60)), {}
    for _ in range(600):
        released = [slot for slot in held if draw.random() < 0.1]
        for slot in released:
            free_pages += held.pop(slot)
        admits, pages, rows, counts = [], [], [], []
        for slot in range(8):
            if slot not in held and draw.random() < 0.3:
                tokens = [draw.randrange(50) for _ in range(draw.randint(1, 30))]
                held[slot] = []
                admits.append(admit(slot, tokens, []))
                left, computed = len(tokens), 0
            elif slot in held and slots.num_tokens[slot] < 40:
                left = int(slots.num_tokens[slot] - slots.num_computed[slot])
                computed = int(slots.num_computed[slot])
            else:
                continue
            if draw.random() < 0.3 or (slot in released and slot not in [a.slot for a in admits]):
                continue
            count = draw.randint(1, left)
            needed = -(-(computed + count) // 4) - len(held[slot])
            if needed > len(free_pages):
                continue
            taken = [free_pages.pop() for _ in range(needed)]
            held[slot] += taken
            pages += [(slot, page) for page in taken]
            rows.append(slot)
            counts.append(count)
        run(slots, plan(rows, counts, pages=pages, admits=admits, released=released))
        slots.check()
        for slot in range(8):
            assert slots.page_table[slot, : slots.num_pages[slot]].tolist() == held.get(slot, [])
            assert bool(slots.num_known[slot]) == (slot in held)
    assert np.any(slots.num_tokens)
