"""What the prefix cache shares, with whom, and what it never shares."""

from by_hand import Make
from fake_worker import expected_tokens

PROMPT = list(range(1, 20))  # four full pages of four, and three tokens


def test_a_second_request_computes_only_what_no_full_page_holds(make: Make) -> None:
    engine = make()
    first = engine.submit(PROMPT, 5)
    engine.run()
    computed = engine.worker.num_computed_tokens
    second = engine.submit(PROMPT, 5)
    engine.run()
    assert engine.cached[first, 0] == 0  # type: ignore[index]
    assert engine.cached[second, 0] == 16  # type: ignore[index]
    assert engine.worker.num_computed_tokens - computed == 3 + 4
    assert engine.got[first, 0] == engine.got[second, 0] == expected_tokens(PROMPT, 5, set(), 97)  # type: ignore[index]


def test_the_next_turn_of_a_chat_finds_the_answer_as_well(make: Make) -> None:
    engine = make()
    engine.submit(PROMPT, 10)
    engine.run()
    history = PROMPT + engine.got[0, 0]
    turn = engine.submit([*history, 50, 51], 3)
    engine.run()
    # The last generated token was never computed; every full page before it is found.
    assert engine.cached[turn, 0] == (len(history) - 1) // 4 * 4  # type: ignore[index]
    assert engine.got[turn, 0] == expected_tokens([*history, 50, 51], 3, set(), 97)  # type: ignore[index]


def test_at_least_one_token_of_a_prompt_is_computed(make: Make) -> None:
    engine = make()
    engine.submit(PROMPT[:16], 2)
    engine.run()
    again = engine.submit(PROMPT[:16], 2)
    engine.run()
    assert engine.cached[again, 0] == 12  # type: ignore[index]


def test_outputs_of_one_request_share_its_prompt_in_the_very_step_that_computes_it(make: Make) -> None:
    engine = make()
    request = engine.submit(PROMPT, 6, n=4)
    plan = engine.plan()
    assert plan is not None
    assert sum(plan.counts) == 19 + 3 * 3
    assert len({page for admit in plan.admits for page in admit.pages}) == 4 + 4 * 1
    engine.run()
    for output in range(4):
        assert engine.got[request, output] == expected_tokens(PROMPT, 6, set(), 97)  # type: ignore[index]


def test_another_salt_shares_nothing(make: Make) -> None:
    engine = make()
    engine.submit(PROMPT, 5, salt="ann")
    engine.run()
    other = engine.submit(PROMPT, 5, salt="bob")
    same = engine.submit(PROMPT, 5, salt="ann")
    engine.run()
    assert engine.cached[other, 0] == 0  # type: ignore[index]
    assert engine.cached[same, 0] == 16  # type: ignore[index]


def test_prompts_beyond_a_length_bound_share_with_their_own_length_alone(make: Make) -> None:
    engine = make(length_bound=16)
    for prompt in (PROMPT, [*PROMPT, 50], PROMPT[:16], PROMPT[:17]):
        first = engine.submit(prompt, 9)
        engine.run()
        again = engine.submit(prompt, 9)
        engine.run()
        expected = expected_tokens(prompt, 9, set(), 97, length_bound=16)
        assert engine.got[first, 0] == engine.got[again, 0] == expected  # type: ignore[index]
        assert engine.cached[first, 0] == 0  # type: ignore[index]
        assert engine.cached[again, 0] == (len(prompt) - 1) // 4 * 4  # type: ignore[index]


def test_a_next_turn_up_to_a_length_bound_finds_its_history_and_one_beyond_it_does_not(make: Make) -> None:
    engine = make(length_bound=16)
    first = engine.submit(PROMPT[:10], 20)
    engine.run()
    answer = engine.got[first, 0]  # type: ignore[index]
    for turn, num_cached in ((PROMPT[:10] + answer[:4], 12), (PROMPT[:10] + answer[:9], 0)):
        request = engine.submit(turn, 9)
        engine.run()
        assert engine.cached[request, 0] == num_cached  # type: ignore[index]
        assert engine.got[request, 0] == expected_tokens(turn, 9, set(), 97, length_bound=16)  # type: ignore[index]


def test_a_page_with_equal_tokens_behind_another_beginning_is_another_page(make: Make) -> None:
    engine = make()
    engine.submit([1, 1, 1, 1, 7, 7, 7, 7, 5], 2)
    engine.run()
    other = engine.submit([2, 2, 2, 2, 7, 7, 7, 7, 5], 2)
    engine.run()
    assert engine.cached[other, 0] == 0  # type: ignore[index]


def test_the_least_recently_used_prefix_is_forgotten_first_and_its_end_before_its_beginning(
    make: Make,
) -> None:
    engine = make(num_pages=12)
    old, new = [1] * 17, [2] * 17
    for prompt in (old, new):
        engine.submit(prompt, 1)
        engine.run()
    filler = engine.submit(list(range(30, 59)), 1)  # 8 pages: 4 are free, 4 have to be forgotten
    engine.run()
    assert engine.cached[filler, 0] == 0  # type: ignore[index]
    found = [engine.submit(prompt, 1) for prompt in (new, old)]
    engine.run()
    new_hit, old_hit = (engine.cached[request, 0] for request in found)  # type: ignore[index]
    assert new_hit == 16
    assert old_hit == 0


def test_a_preempted_sequence_finds_its_own_pages_again(make: Make) -> None:
    engine = make(num_pages=12, max_num_seqs=2)
    a, b = engine.submit([1] * 9, 20), engine.submit([2] * 9, 20)
    engine.run()
    assert engine.core.num_preemptions > 0
    assert engine.core.num_prefix_hit_tokens > 0
    assert engine.got[a, 0] == expected_tokens([1] * 9, 20, set(), 97)  # type: ignore[index]
    assert engine.got[b, 0] == expected_tokens([2] * 9, 20, set(), 97)  # type: ignore[index]


def test_switched_off_it_shares_nothing_and_changes_no_token(make: Make) -> None:
    engine = make(share_prefixes=False)
    requests = [engine.submit(PROMPT, 5) for _ in range(3)]
    engine.run()
    assert engine.core.num_prefix_hit_tokens == 0
    assert engine.core.stats(0.0).num_cached_pages == 0
    for request in requests:
        assert engine.got[request, 0] == expected_tokens(PROMPT, 5, set(), 97)  # type: ignore[index]


def test_a_lost_worker_takes_the_cache_with_it(make: Make) -> None:
    engine = make()
    engine.submit(PROMPT, 5)
    engine.run()
    assert engine.core.stats(0.0).num_cached_pages > 0
    engine.core.worker_lost()
    assert engine.core.stats(0.0).num_cached_pages == 0
