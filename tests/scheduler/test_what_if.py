"""A recording under another setting: the model is true to it, and changes change the right things."""

from pathlib import Path

import pytest
from recordings import ROW_NS, STEP_NS, TOKEN_NS, events_of, record_run, write_part

from gllm.replay_command import SETTING, main
from gllm.scheduler.policy import Fcfs, Priority, TokenThrottling
from gllm.scheduler.recording import Cancelled, Event, Part, Planned, Submitted, open_recording
from gllm.scheduler.replay import Answer, Replay
from gllm.simulate.slot_table import SlotTable
from gllm.what_if.compare import LIMITS, POLICY, WORKER, changed, compare, setting_of
from gllm.what_if.history import History
from gllm.what_if.text import Numbers


def lives(history: History) -> list[tuple[float | None, ...]]:
    """When each output came, began, had its first token and ended, to the microsecond."""
    return [
        tuple(
            None if at is None else round(at, 6)
            for at in (case.submitted_at, output.began_at, output.first_token_at, output.ended_at)
        )
        for case in history.cases
        for output in case.outputs.values()
    ]


@pytest.mark.parametrize("policy", [Fcfs(), Priority(), TokenThrottling(4, 32, 2, 0.1)])
def test_the_model_of_a_regular_worker_is_the_recording(file: Path, policy: Fcfs) -> None:
    record_run(file, 80, policy=policy)
    comparison = compare(open_recording(file), {})
    assert lives(comparison.modelled) == lives(comparison.recorded)
    assert lives(comparison.what_if) == lives(comparison.recorded)
    truth = Numbers(comparison.recorded).stats
    assert truth.num_preemptions > 0
    for history in (comparison.modelled, comparison.what_if):
        assert Numbers(history).stats == truth


def test_cancelled_and_expired_requests_end_where_they_ended(file: Path) -> None:
    record_run(file, 150, cancel_share=0.3)
    comparison = compare(open_recording(file), {})
    recorded, modelled = Numbers(comparison.recorded), Numbers(comparison.modelled)
    assert any(case.cancelled_at for case in comparison.recorded.cases)
    assert recorded.num_expired > 0
    assert modelled.stats.num_steps == pytest.approx(recorded.stats.num_steps, rel=0.05)
    assert modelled.stats.num_generated_tokens == pytest.approx(recorded.stats.num_generated_tokens, rel=0.05)
    assert modelled.num_expired == pytest.approx(recorded.num_expired, abs=3)
    for was, became in zip(comparison.recorded.cases, comparison.modelled.cases, strict=True):
        if was.is_over and became.is_over:
            assert [o.tokens for o in was.outputs.values()] == [o.tokens for o in became.outputs.values()]


def test_more_pages_end_preemptions_and_waiting(file: Path) -> None:
    record_run(file, 80)
    comparison = compare(open_recording(file), {"worker.num_pages": 400, "scheduler.max_num_seqs": 60})
    modelled, what_if = Numbers(comparison.modelled), Numbers(comparison.what_if)
    assert modelled.stats.num_preemptions > 0
    assert what_if.stats.num_preemptions == 0
    assert what_if.stats.num_generated_tokens == modelled.stats.num_generated_tokens
    assert sum(what_if.queue) < sum(modelled.queue) / 2
    assert what_if.stats.num_steps < modelled.stats.num_steps


def test_without_prefix_cache_nothing_is_found(file: Path) -> None:
    record_run(file, 30)
    comparison = compare(open_recording(file), {"scheduler.prefix_cache": False})
    assert Numbers(comparison.modelled).stats.num_prefix_hit_tokens > 0
    assert Numbers(comparison.what_if).stats.num_prefix_hit_tokens == 0


def test_a_part_from_the_middle_begins_with_what_was_there(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_run(file, 150, max_bytes=12_000, max_files=2, cancel_share=0.1)
    sequences = Part.open(file.with_name("run.glr.1")).begin.state.sequences
    assert sequences
    comparison = compare(open_recording(file), {"scheduler.micro_batches": 1})
    there = [case for case in comparison.recorded.cases if case.was_there]
    assert sum(len(case.outputs) for case in there) == len(sequences)
    assert sum(case.was_there for case in comparison.what_if.cases) == len(there)
    assert main([str(file), "--num-micro-batches", "1"]) == 0
    assert f"{len(there)} requests were there when the recording began" in capsys.readouterr().out


def test_a_recording_that_ends_early_leaves_nothing_running_in_the_model(file: Path) -> None:
    record_run(file, 40)
    begin, events = events_of(file)
    write_part(file, begin, events[: len(events) // 2])
    comparison = compare(open_recording(file), {"scheduler.max_num_seqs": 3})
    for history in (comparison.modelled, comparison.what_if):
        assert Numbers(history).stats.num_running == Numbers(history).stats.num_waiting == 0
    assert Numbers(comparison.recorded).stats.num_running > 0


def test_a_setting_takes_every_option_of_the_command(file: Path) -> None:
    assert set(SETTING) == {*LIMITS, *POLICY, *WORKER}
    record_run(file, 2, policy=TokenThrottling(4, 32, 2, 0.1))
    setting = setting_of(events_of(file)[0].state)
    assert changed(setting, {"scheduler.policy": "priority"}).policy == Priority()
    assert changed(setting, {"scheduler.throttling_iterations": 3}).policy == TokenThrottling(4, 32, 3, 0.1)
    assert changed(setting, {"scheduler.max_num_queued_reqs": 5}).limits.max_num_queued_reqs == 5
    assert changed(setting, {"worker.page_size": 8}).num_pages == setting.num_pages // 2
    both = changed(setting, {"worker.page_size": 8, "worker.num_pages": 7})
    assert (both.page_size, both.num_pages) == (8, 7)


def test_the_command_prints_the_three_columns(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    core = record_run(file, 60)
    assert main([str(file), "--policy", "token_throttling", "--minp", "4", "--max-num-seqs", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == (
        "what if   policy TokenThrottling(min_tokens=4, max_tokens=2048, iterations=8, free_threshold=0.05) "
        "for Fcfs(), max_num_seqs 3 for 6"
    )
    (steps,) = (line.split() for line in lines if line.startswith("steps "))
    assert steps[1] == steps[2] == str(core.num_steps)
    assert steps[3] != steps[2]
    assert steps[4].startswith("+")
    for name in (
        "preemptions",
        "queue wait, sequences",
        "to the first token",
        "end to end",
        "passed over: no slot",
    ):
        assert any(line.startswith(name) for line in lines)


def test_what_cannot_be_tried_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_run(file, 5)
    assert main([str(file), "--policy", "lifo"]) == 2
    assert main([str(file), "--max-num-seqs", "0"]) == 2
    assert main([str(file), "--max-num-seqs", "2", "--until", "3"]) == 2
    begin, events = events_of(file)
    write_part(file, begin, [event for event in events if isinstance(event, Cancelled)])
    assert main([str(file), "--max-num-seqs", "2"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "gllm: --scheduling-policy is 'lifo', expected 'fcfs', 'priority' or 'token_throttling'",
        "gllm: --max-num-seqs is '0', expected an integer of at least 1 such as 256 or 1k",
        "gllm: --until shows the recording as it was: remove it, or the options of the setting",
        "gllm: no result in the recording says how long its step took: nothing to simulate with",
    ]


def test_what_a_step_computes_is_what_follows_from_its_plan_alone(file: Path) -> None:
    record_run(file, 60)
    replay = Replay(open_recording(file))
    history, table = History(replay.core, replay.now), SlotTable(replay.core.worker.num_slots)
    shapes = []

    def watch(event: Event, answer: Answer) -> None:
        match event:
            case Submitted(now, frontend, request):
                assert not isinstance(answer, dict | list)
                history.submitted(frontend, request, now, answer)
            case Planned() if replay.plan is not None:
                shapes.append(history.planned(replay.plan, replay.now))
                assert shapes[-1] == table.take(replay.plan)

    replay.run(watch=watch)
    assert any(shape.num_chunks and shape.num_sampled < shape.num_rows for shape in shapes)
    assert replay.core.num_preemptions > 0


def test_the_cost_of_a_step_is_learnt(file: Path) -> None:
    record_run(file, 60)
    cost = compare(open_recording(file), {}).costs.step
    assert cost.step_s == pytest.approx(STEP_NS / 1e9, rel=1e-3)
    assert cost.token_s == pytest.approx(TOKEN_NS / 1e9, rel=1e-3)
    assert cost.row_s == pytest.approx(ROW_NS / 1e9, rel=1e-2)
