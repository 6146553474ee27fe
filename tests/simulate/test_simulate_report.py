"""Latencies, percentiles and goodput, computed by hand; and the search over rates."""

import math

import numpy as np
import pytest
from made_up import config, costs, trace

from gllm.simulate.engine import simulate
from gllm.simulate.report import Slo, SloError, latencies, statistics, summary, table
from gllm.simulate.search import best, highest_rate

# Three requests sent at 0, 1 and 2 s: tokens at 1, 2, 4 s; at 1.5 s; at 5, 5.5 s.
SENT = np.array([0.0, 1.0, 2.0])
TOKENS = [(0, 1.0), (1, 1.5), (0, 2.0), (0, 4.0), (2, 5.0), (2, 5.5)]


def test_latencies_are_those_of_the_definitions() -> None:
    found = latencies(SENT, *zip(*TOKENS, strict=True))
    assert found.num_tokens.tolist() == [3, 1, 2]
    assert found.ttft.tolist() == [1.0, 0.5, 3.0]
    assert found.e2el.tolist() == [4.0, 0.5, 3.5]
    assert found.tpot.tolist() == [1.5, 0.0, 0.5]
    assert found.itl.tolist() == [1.0, 2.0, 0.5]
    assert found.of("tpot").tolist() == [1.5, 0.5]  # one token has no time per output token


def test_statistics_are_in_milliseconds_and_interpolate() -> None:
    named = statistics(latencies(SENT, *zip(*TOKENS, strict=True)))
    assert named["mean_ttft_ms"] == 1500.0
    assert named["median_ttft_ms"] == 1000.0
    assert named["p90_ttft_ms"] == pytest.approx(1000 + 0.8 * 2000)
    assert named["median_tpot_ms"] == 1000.0
    assert named["p99_e2el_ms"] == pytest.approx(3500 + 0.98 * 500)


def test_goodput_counts_who_meets_every_bound() -> None:
    found = latencies(SENT, *zip(*TOKENS, strict=True))
    assert Slo.parse(["ttft:1000"]).num_met(found) == 2
    assert Slo.parse(["ttft:1000", "tpot:1499"]).num_met(found) == 1
    assert Slo.parse(["e2el:400"]).num_met(found) == 0
    assert str(Slo.parse(["ttft:200", "tpot:50"])) == "ttft:200 tpot:50"


@pytest.mark.parametrize("word", ["ttft", "itl:5", "tpot:0", "tpot:x", "e2el:nan"])
def test_a_bound_that_is_none_is_named(word: str) -> None:
    with pytest.raises(SloError, match=word):
        Slo.parse([word])


def test_without_tokens_there_are_no_latencies() -> None:
    found = latencies(SENT, [], [])
    assert not len(found.ttft)
    assert math.isnan(statistics(found)["p99_ttft_ms"])


def test_a_summary_counts_what_was_served_and_what_was_not() -> None:
    run = simulate(trace((0.0, 5000, 2), (0.0, 50, 3), (1.0, 50, 1)), config(), costs())
    figures = summary(run, Slo.parse(["ttft:1000"]))
    assert (figures["completed"], figures["failed"]) == (2, 1)
    assert (figures["total_input_tokens"], figures["total_output_tokens"]) == (100, 4)
    assert figures["slo_attainment"] == 2 / 3
    assert figures["request_goodput"] == pytest.approx(2 / figures["duration"])
    assert figures["worker_busy"] == pytest.approx(run.busy_s / run.duration_s)
    shown = table(figures).splitlines()
    assert shown[0] == "============ Serving Benchmark Result ============"
    assert f"{'Successful requests:':<40} {2:<10}" in shown
    assert f"{'Request goodput (req/s):':<40} {figures['request_goodput']:<10.2f}" in shown
    assert "---------------Time to First Token----------------" in shown


@pytest.mark.parametrize("knee", [0.3, 1.0, 7.7, 40.0])
def test_the_highest_rate_is_found_from_any_side(knee: float) -> None:
    tried: list[float] = []

    def attainment(rate: float) -> float:
        tried.append(rate)
        return 1.0 if rate <= knee else knee / rate / 2

    rate = highest_rate(attainment, guess=2.0, share=0.9, tolerance=0.02)
    assert rate is not None
    assert rate <= knee < rate * 1.02
    assert len(tried) < 20


def test_a_rate_that_is_not_to_blame_is_not_looked_for() -> None:
    tried: list[float] = []
    assert highest_rate(lambda rate: tried.append(rate) or 0.5, guess=2.0, share=0.9) is None
    assert len(tried) == 2
    assert highest_rate(lambda _: 0.0, guess=2.0, share=0.9) is None
    assert highest_rate(lambda _: 1.0, guess=2.0, share=0.9) == 2.0 * 2**8


def test_the_best_setting_keeps_the_slo_and_then_is_fast() -> None:
    assert (
        best({1: {"slo_attainment": 0.90, "mean_e2el_ms": 5}, 2: {"slo_attainment": 0.95, "mean_e2el_ms": 9}})
        == 2
    )
    assert (
        best(
            {1: {"slo_attainment": 0.9501, "mean_e2el_ms": 9}, 2: {"slo_attainment": 0.95, "mean_e2el_ms": 5}}
        )
        == 2
    )
    assert best({1: {"mean_e2el_ms": 5}, 2: {"mean_e2el_ms": 9}}) == 1
