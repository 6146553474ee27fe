"""Definitions of latencies, throughputs and goodput, by examples that were computed by hand."""

import pytest

from gllm.bench.errors import BenchError
from gllm.bench.metrics import Distribution, Goodput, Outcome, summarize

# Three tokens in three outputs; one token; five tokens in two outputs; one that failed.
THREE = Outcome(10, 1.0, [1.2, 1.3, 1.5], 3, "abc")
ONE = Outcome(20, 0.0, [0.4], 1, "a")
BUNDLED = Outcome(30, 2.0, [2.1, 2.5], 5, "abcde")
FAILED = Outcome(40, 0.5, error="503")


def test_ttft_is_from_sending_to_the_first_output_and_e2el_to_the_last() -> None:
    assert pytest.approx(0.2) == THREE.ttft
    assert pytest.approx(0.5) == THREE.latency
    assert ONE.ttft == ONE.latency == 0.4


def test_itls_are_the_gaps_between_outputs() -> None:
    assert pytest.approx([0.1, 0.2]) == THREE.itls
    assert ONE.itls == []
    assert pytest.approx([0.4]) == BUNDLED.itls


def test_tpot_divides_by_the_tokens_after_the_first_and_leaves_out_single_tokens() -> None:
    assert pytest.approx(0.15) == THREE.tpot
    assert ONE.tpot is None
    assert pytest.approx(0.1) == BUNDLED.tpot


def test_a_run_pools_itls_averages_tpots_and_leaves_out_failures() -> None:
    summary = summarize([THREE, ONE, BUNDLED, FAILED], 4.0, [50, 99])
    assert (summary.completed, summary.failed) == (3, 1)
    assert (summary.total_input_tokens, summary.total_output_tokens) == (60, 9)
    assert summary.request_throughput == 0.75
    assert summary.output_throughput == 2.25
    assert summary.total_token_throughput == 17.25
    assert summary.request_goodput is None
    assert summary.avg_latency_ms == pytest.approx((500 + 400 + 500) / 3)
    found = summary.distributions
    assert found["ttft"].mean == pytest.approx((200 + 400 + 100) / 3)
    assert found["tpot"].mean == pytest.approx((150 + 100) / 2)
    assert found["itl"].mean == pytest.approx((100 + 200 + 400) / 3)
    assert found["itl"].median == pytest.approx(200)
    assert found["e2el"].percentiles[50] == pytest.approx(500)


def test_percentiles_are_interpolated_and_nothing_measured_is_zero() -> None:
    found = Distribution.of([0.001, 0.002, 0.003, 0.004], [25, 50, 99])
    assert (found.mean, found.median) == pytest.approx((2.5, 2.5))
    assert found.std == pytest.approx(1.25**0.5)
    assert found.percentiles == pytest.approx({25: 1.75, 50: 2.5, 99: 3.97})
    assert Distribution.of([], [99]) == Distribution(0.0, 0.0, 0.0, {99: 0.0})


@pytest.mark.parametrize(
    ("words", "num_good"),
    [
        ("ttft:200", 2),
        ("ttft:400", 3),
        ("tpot:100", 2),  # a single token has no TPOT to miss
        ("ttft:200 tpot:120", 1),
        ("e2el:450", 1),
        ("ttft:1 e2el:1000", 0),
    ],
)
def test_a_request_is_good_if_it_keeps_every_limit(words: str, num_good: int) -> None:
    summary = summarize([THREE, ONE, BUNDLED, FAILED], 2.0, [99], Goodput.parse(words.split()))
    assert summary.request_goodput == num_good / 2


@pytest.mark.parametrize("word", ["ttft", "ttft:", "itl:3", "ttft:-1", "ttft:nan", "e2e:3"])
def test_a_goodput_that_means_nothing_is_refused(word: str) -> None:
    with pytest.raises(BenchError, match="METRIC:MS"):
        Goodput.parse([word])


def test_peaks_are_of_the_busiest_second() -> None:
    summary = summarize([THREE, ONE, BUNDLED], 4.0, [99])
    assert summary.peak_output_throughput == 5  # of BUNDLED, both outputs after 2 s
    assert summary.peak_concurrency == 1
    assert summarize([THREE, THREE, FAILED], 1.0, []).peak_concurrency == 2
    nothing = summarize([FAILED], 1.0, [99])
    assert (nothing.peak_output_throughput, nothing.peak_concurrency, nothing.completed) == (0, 0, 0)
