"""A recording is replayed byte for byte, and whatever is wrong with it is said in a sentence."""

import contextlib
import random
from dataclasses import replace
from pathlib import Path

import pytest
from recordings import events_of, record_run, recorded_into, write_part

from gllm.protocol.codec import decode, encode
from gllm.protocol.messages import PROTOCOL_VERSION, StepPlan
from gllm.replay_command import main
from gllm.scheduler.policy import Priority, TokenThrottling
from gllm.scheduler.recording import (
    FORMAT_VERSION,
    MAGIC,
    CacheReset,
    Cancelled,
    Committed,
    End,
    Event,
    Expired,
    Masked,
    Part,
    Planned,
    Planning,
    RecordingError,
    Submitted,
    frame,
    open_recording,
)
from gllm.scheduler.replay import Answer, Differs, Replay
from gllm.scheduler.state_text import state_text


def replayed(file: Path) -> Replay:
    run = Replay(open_recording(file))
    run.run()
    return run


def test_an_emptied_prefix_cache_is_part_of_the_recording(file: Path) -> None:
    record_run(file, 80, cancel_share=0.2, loss_share=0.02)
    assert places(events_of(file)[1], CacheReset)
    assert replayed(file).num_plans > 80


def plan_in(event: Event) -> StepPlan:
    assert isinstance(event, Planned)
    plan = decode(event.plan)
    assert isinstance(plan, StepPlan)
    return plan


def places(events: list[Event], kind: type[Event]) -> list[int]:
    return [place for place, event in enumerate(events) if isinstance(event, kind)]


@pytest.mark.parametrize("policy", [None, Priority(), TokenThrottling(4, 32, 2, 0.1)])
def test_all_plans_of_a_run_are_made_again(file: Path, policy: Priority | TokenThrottling | None) -> None:
    core = record_run(file, 80, policy=policy, cancel_share=0.2)
    assert core.num_preemptions > 0
    kinds = {type(event) for event in events_of(file)[1]}
    assert kinds == {Submitted, Masked, Cancelled, Expired, Planning, Planned, Committed, End}
    run = replayed(file)
    assert run.num_plans == core.num_steps
    assert run.core.stats(9.0) == core.stats(9.0)


def test_the_command_says_that_all_plans_are_equal(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    core = record_run(file, 10)
    num_events = len(events_of(file)[1])
    assert main([str(file)]) == 0
    out = capsys.readouterr().out
    assert out == f"{num_events} events, {core.num_steps} plans, all plans are equal\n"


def test_the_first_other_plan_is_found_and_shown(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_run(file, 20)
    begin, events = events_of(file)
    place = places(events, Planned)[30]
    plan = plan_in(events[place])
    other = replace(plan, slots=plan.slots[::-1])
    assert other != plan
    events[place] = Planned(encode(other))
    write_part(file, begin, events)
    with pytest.raises(Differs, match="the plans differ") as caught:
        replayed(file)
    assert (caught.value.step, caught.value.recorded, caught.value.replayed) == (30, other, plan)
    assert main([str(file)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("step 30: the plans differ\nin slots\nrecorded\n  step 30, epoch 1, ")
    assert "\nreplayed\n  step 30, epoch 1, " in out
    assert "rows: slot " in out


def test_a_plan_too_many_and_a_plan_too_few_are_differences(file: Path) -> None:
    record_run(file, 20)
    begin, events = events_of(file)
    place = places(events, Planned)[12]
    write_part(file, begin, events[:place] + events[place + 1 :])
    with pytest.raises(Differs, match="a plan was made where the recording has none") as caught:
        replayed(file)
    assert (caught.value.step, caught.value.recorded) == (12, None)
    write_part(file, begin, [*events[: place + 1], events[place]])
    with pytest.raises(Differs, match="no plan was made where the recording has one") as caught:
        replayed(file)
    assert (caught.value.step, caught.value.replayed) == (13, None)


def test_another_order_of_the_same_inputs_is_noticed(file: Path) -> None:
    record_run(file, 60, cancel_share=0.3)
    begin, events = events_of(file)
    rng = random.Random(1)
    submitted = places(events, Submitted)
    for _ in range(5):
        one, other = rng.sample(submitted, 2)
        swapped = list(events)
        swapped[one], swapped[other] = swapped[other], swapped[one]
        write_part(file, begin, swapped)
        with pytest.raises(Differs):
            replayed(file)


def test_parts_that_do_not_join_are_noticed(file: Path) -> None:
    record_run(file, 60, max_bytes=12_000, constrained_share=0.0)
    older = file.with_name("run.glr.1")
    begin, events = events_of(older)
    last = places(events, Committed)[-1]
    write_part(older, begin, events[:last] + events[last + 1 :])
    with pytest.raises(Differs, match=r"at the beginning of part \d+ differ: .*sequences"):
        replayed(file)


def test_a_recording_that_was_cut_off_is_replayed_as_far_as_it_goes(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_run(file, 10)
    whole = file.read_bytes()
    begin, _ = events_of(file)
    head = len(MAGIC) + len(frame(begin))
    num_plans = 0
    for size in range(head, len(whole), 61):
        file.write_bytes(whole[:size])
        parts = open_recording(file)
        run = Replay(parts)
        run.run()
        assert run.num_plans >= num_plans
        num_plans = run.num_plans
        assert parts[-1].is_cut_off == (head + sum(len(frame(e)) for e in events_of(file)[1]) < size)
    file.write_bytes(whole[:-1])
    assert main([str(file)]) == 0
    out = capsys.readouterr().out
    assert "all plans are equal\n" in out
    assert f"the last frame of {file} is not whole" in out
    for size in (0, 5, len(MAGIC), len(MAGIC) + 3, head - 1):
        file.write_bytes(whole[:size])
        assert main([str(file)]) == 2
        assert capsys.readouterr().err.startswith(f"gllm: {file} ")


def test_how_a_recording_ends_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_run(file, 60, max_bytes=12_000, max_files=2)
    first = Part.open(file.with_name("run.glr.1")).begin.part
    assert main([str(file)]) == 0
    assert capsys.readouterr().out.endswith(
        f"all plans are equal\nthe recording begins with part {first}: older ones are not here\n"
    )
    begin, events = events_of(file)
    write_part(file, begin, events[:-1])
    assert main([str(file)]) == 0
    assert capsys.readouterr().out.endswith(
        "no end is recorded: the process was killed, or recorded on in a newer part\n"
    )
    write_part(file, begin, [*events[:-1], End("OSError: the network is gone")])
    assert main([str(file)]) == 0
    assert capsys.readouterr().out.endswith("then the recorded process ended: OSError: the network is gone\n")


def test_no_bytes_make_the_reader_raise_anything_but_its_own_errors(file: Path) -> None:
    record_run(file, 10, cancel_share=0.2)
    whole = file.read_bytes()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 1, 3])):
            damaged[rng.randrange(len(MAGIC), len(damaged))] = rng.randrange(256)
        file.write_bytes(damaged)
        with contextlib.suppress(RecordingError, Differs):
            replayed(file)


def test_another_version_is_refused_by_name(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_run(file, 2)
    begin, events = events_of(file)
    write_part(file, replace(begin, format_version=9), events)
    assert main([str(file)]) == 2
    theirs, ours = [9, PROTOCOL_VERSION], [FORMAT_VERSION, PROTOCOL_VERSION]
    versions = f"{theirs} of format and protocol, this gLLM reads {ours}"
    assert f"it has the versions {versions}: replay it with" in capsys.readouterr().err


def test_a_file_that_is_no_recording_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("model: demo\n")
    assert main([str(file)]) == 2
    assert main([str(file.parent / "none")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"gllm: {file} is no recording of gllm serve --record",
        f"gllm: {file.parent / 'none'}: No such file or directory",
    ]


def test_a_core_that_ended_with_an_error_ends_with_it_again(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = recorded_into(file)
    run.submit()
    run.plan()
    result = replace(run.results[0], step=99)
    with pytest.raises(ValueError, match="not the oldest plan") as caught:
        run.core.commit(result, 2.0)
    run.core.close(f"ValueError: {caught.value}")
    assert main([str(file)]) == 0
    out = capsys.readouterr().out
    assert "all plans are equal\nthen the core ends as the recorded one did:\nTraceback" in out
    assert "ValueError: a result of step 99 came" in out
    begin, events = events_of(file)
    write_part(file, begin, [*events[:-1], events[0]])  # as if the recorded core had gone on
    assert main([str(file)]) == 1
    assert "the core raised ValueError (a result of step 99 came" in capsys.readouterr().out


def test_the_state_at_a_step_is_shown(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_run(file, 60)
    step = 60
    assert main([str(file), "--until", str(step)]) == 0
    out = capsys.readouterr().out
    run = Replay([Part.open(file)])
    run.run(until=step)
    assert run.core.num_steps == step + 1
    assert f"steps planned              {step + 1}\n" in out
    pool = run.core.cache.pool
    held = pool.num_pages - pool.num_free_pages
    assert f"pages of 4 tokens          {held} of 40 held, {pool.num_cached_pages} cached" in out
    assert f"  step {step}, planned 0.0 ms ago: " in out
    assert f"\nrunning: {len(run.core.running)}\n" in out
    assert run.core.waiting
    first = run.core.waiting.first()
    assert f"  f/{first.request_id}.{first.output} is first and does not get in: " in out
    for sequence in run.core.running:
        assert f"  f/{sequence.request_id}.{sequence.output} " in out


def test_every_reason_to_wait_is_given_with_its_numbers(file: Path) -> None:
    record_run(file, 80)
    run = Replay([Part.open(file)])
    seen = set()

    def watch(event: Event, _answer: Answer) -> None:
        if isinstance(event, Planned):
            text = state_text(run.core, run.now, run.lack)
            assert ("is first and does not get in" in text) == bool(run.core.waiting)
            seen.update(sentence for sentence in sentences if sentence in text)

    sentences = {"all 6 slots are taken", "are kept for what runs", "tokens, or what it may take of prompts"}
    run.run(watch=watch)
    assert seen == sentences


def test_a_step_that_is_not_there_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    core = record_run(file, 60, max_bytes=12_000, max_files=2)
    first = Part.open(file.with_name("run.glr.1")).begin.state.num_steps
    assert first > 0
    for step in (first - 1, core.num_steps):
        assert main([str(file), "--until", str(step)]) == 2
        sentence = f"which has the steps {first} to {core.num_steps - 1}"
        assert f"gllm: step {step} is not in the recording, {sentence}\n" == capsys.readouterr().err
    assert main([str(file), "--until", str(first)]) == 0
