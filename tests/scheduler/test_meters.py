"""What is counted, added up and listed for operators, beside the decisions."""

import random

import pytest
from by_hand import Engine
from fake_worker import FakeWorker

from gllm.meters import CATALOGUE, Meters, added_up
from gllm.protocol.codec import decode, encode
from gllm.protocol.messages import (
    ListRequests,
    PassedOver,
    Report,
    RequestList,
    Series,
    StepPlan,
    StepResult,
    WorkerReady,
)
from gllm.protocol.wire import column
from gllm.scheduler.core import Scheduler
from gllm.scheduler.intake import Limits
from gllm.scheduler.listing import listed
from gllm.scheduler.policy import Fcfs
from gllm.scheduler.reports import Reports
from gllm.scheduler.step_meters import StepMeters


def an_engine(num_slots: int = 2, num_pages: int = 40) -> Engine:
    worker = FakeWorker(WorkerReady(1, num_pages, 4, num_slots, 64, 64, 50))
    return Engine(Scheduler(Limits(num_slots, 64, 99, 9999, 1, True), Fcfs(), worker.ready), worker)


def a_plan(num_rows: int) -> StepPlan:
    empty = column()
    return StepPlan(1, 0, column(range(num_rows)), empty, empty, empty, [], empty)


def totals(series: list[Series]) -> dict[str, float]:
    return {"/".join([item.name, *item.labels]): item.total for item in series}


def test_idle_time_between_steps_is_a_bubble_only_while_there_is_work() -> None:
    meters = StepMeters()
    ms = 1_000_000
    meters.planned(a_plan(3), began_ns=0, sent_ns=1 * ms)  # the worker has waited 50 ms for the first
    meters.planned(a_plan(3), began_ns=1 * ms, sent_ns=2 * ms)
    first = StepResult(1, 0, column(), start_ns=2 * ms, end_ns=12 * ms, idle_ns=50 * ms)
    meters.committed(first, came_ns=13 * ms, done_ns=14 * ms, is_over=False)
    second = StepResult(1, 1, column(), start_ns=15 * ms, end_ns=25 * ms, idle_ns=3 * ms)
    meters.committed(second, came_ns=26 * ms, done_ns=26 * ms, is_over=True)
    meters.planned(a_plan(1), began_ns=90 * ms, sent_ns=91 * ms)
    third = StepResult(1, 2, column(), start_ns=92 * ms, end_ns=93 * ms, idle_ns=67 * ms)
    meters.committed(third, came_ns=94 * ms, done_ns=94 * ms, is_over=True)
    seen = totals(meters.series())
    assert seen["pipeline_bubble_seconds"] == pytest.approx(0.003)
    assert seen["worker_idle_seconds"] == pytest.approx(0.120)
    assert seen["worker_busy_seconds"] == pytest.approx(0.021)
    assert seen["iteration_tokens_total"] == 7
    assert seen["scheduler_step_seconds"] == pytest.approx(0.002 + 0.001 + 0.001)
    # The second plan lay in the socket until the worker was free, 12 ms on: 3 ms are its hop.
    assert seen["zmq_hop_seconds/plan"] == pytest.approx(0.001 + 0.003 + 0.001)
    assert seen["zmq_hop_seconds/result"] == pytest.approx(0.003)


def test_the_late_result_of_a_lost_worker_is_not_measured() -> None:
    meters = StepMeters()
    meters.planned(a_plan(1), 0, 1)
    meters.worker_lost()
    meters.committed(StepResult(1, 0, column(), 5, 10, 0), 11, 12, is_over=False)
    assert totals(meters.series())["worker_busy_seconds"] == 0


def test_a_value_falls_into_the_bucket_whose_upper_end_it_does_not_pass() -> None:
    meters = Meters()
    distribution = meters.distribution("request_params_n")
    for value in (1, 2, 3, 128, 129):
        distribution.add(value)
    (series,) = meters.series()
    assert CATALOGUE["request_params_n"].bounds == (1, 2, 4, 8, 16, 32, 64, 128)
    assert series.counts == [1, 1, 1, 0, 0, 0, 0, 1, 1]
    assert series.total == 263


def test_a_report_survives_the_wire_and_sums_do_not_fall_when_a_frontend_goes() -> None:
    reports = Reports()
    own = Meters()
    own.count("worker_busy_seconds", by=5)
    for frontend, ended in ((b"a", 3), (b"b", 4)):
        meters = Meters()
        meters.count("request_success", "stop", by=ended)
        meters.distribution("request_prompt_tokens").add(100)
        report = decode(encode(Report(meters.series())))
        assert isinstance(report, Report)
        reports.take(frontend, report)
        reports.take(frontend, report)  # the next one replaces it
    expected = {"worker_busy_seconds": 5, "request_success/stop": 7, "request_prompt_tokens": 200}
    assert totals(reports.with_own(own.series())) == expected
    reports.frontend_lost(b"a")
    reports.frontend_lost(b"never seen")
    again = reports.with_own(own.series())
    assert totals(again) == expected
    assert sum(next(item for item in again if item.name == "request_prompt_tokens").counts) == 2


def test_series_that_do_not_fit_the_catalogue_are_left_out() -> None:
    strange = [
        Series("no such", [], [], 1.0),
        Series("request_success", [], [], 1.0),
        Series("request_prompt_tokens", [], [1, 2], 3.0),
    ]
    assert added_up(strange) == []


def test_the_list_says_who_runs_who_waits_and_why() -> None:
    engine = an_engine(num_slots=1)
    for name, prompt in (("first", [1] * 10), ("second", [2] * 5), ("third", [3] * 5)):
        assert engine.submit(prompt, 8, name=name) in (0, 1, 2)
    engine.now = 2.0
    engine.step()
    engine.now = 3.0
    engine.step()
    answer = decode(encode(listed(engine.core, ListRequests(7, "", 2), engine.now)))
    assert isinstance(answer, RequestList)
    assert (answer.question, answer.num_running, answer.num_waiting) == (7, 1, 2)
    first, second = answer.requests
    assert (first.name, first.is_running, first.num_generated_tokens, first.num_computed_tokens) == (
        "first", True, 2, 11
    )  # fmt: skip
    assert (first.queue_s, first.prefill_s, first.age_s) == (2.0, 0.0, 3.0)
    assert (second.name, second.is_running, second.num_ahead, second.queue_s) == ("second", False, 0, 3.0)
    assert second.passed_over[PassedOver.NO_SLOT] == 2
    only = listed(engine.core, ListRequests(8, "third", 9), engine.now)
    assert [(state.name, state.num_ahead) for state in only.requests] == [("third", 1)]


def test_a_reset_lets_nobody_find_old_pages_and_changes_no_token() -> None:
    rng = random.Random(5)
    prompt = [rng.randrange(50) for _ in range(30)]
    engine = an_engine()
    first = engine.submit(prompt, 6)
    engine.run()
    second = engine.submit(prompt, 6)
    engine.step()
    assert engine.core.reset_prefix_cache() > 0  # while its pages are held
    engine.core.check()
    engine.run()
    assert engine.core.reset_prefix_cache() > 0  # generated ones were named after that
    engine.core.check()
    assert engine.core.cache.pool.num_cached_pages == 0
    third = engine.submit(prompt, 6)
    engine.run()
    assert engine.cached[second, 0] > 0
    assert engine.cached[third, 0] == 0
    assert engine.got[first, 0] == engine.got[second, 0] == engine.got[third, 0]
