"""The block of results and the JSON, letter by letter: other people's scripts read them."""

import json
from pathlib import Path

from gllm.bench import report
from gllm.bench.metrics import METRICS, Goodput, Outcome, summarize

OUTCOMES = [Outcome(7, 0.0, [0.1, 0.2], 2, "ab"), Outcome(3, 0.5, [1.0], 1, "c"), Outcome(9, error="503")]
FULL = """\
============ Serving Benchmark Result ============
Successful requests:                     2         
Failed requests:                         1         
Maximum request concurrency:             4         
Request rate configured (RPS):           1.50      
Benchmark duration (s):                  2.00      
Total input tokens:                      10        
Total generated tokens:                  3         
Request throughput (req/s):              1.00      
Request goodput (req/s):                 0.50      
Output token throughput (tok/s):         1.50      
Peak output token throughput (tok/s):    2.00      
Peak concurrent requests:                2.00      
Total token throughput (tok/s):          6.50      
Avg latency (ms):                        350.00    
---------------Time to First Token----------------
Mean TTFT (ms):                          300.00    
Median TTFT (ms):                        300.00    
P50 TTFT (ms):                           300.00    
P99.9 TTFT (ms):                         499.60    
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          100.00    
Median TPOT (ms):                        100.00    
P50 TPOT (ms):                           100.00    
P99.9 TPOT (ms):                         100.00    
---------------Inter-token Latency----------------
Mean ITL (ms):                           100.00    
Median ITL (ms):                         100.00    
P50 ITL (ms):                            100.00    
P99.9 ITL (ms):                          100.00    
----------------End-to-end Latency----------------
Mean E2EL (ms):                          350.00    
Median E2EL (ms):                        350.00    
P50 E2EL (ms):                           350.00    
P99.9 E2EL (ms):                         499.70    
==================================================
"""  # noqa: W291
FIGURES = """duration completed failed total_input_tokens total_output_tokens request_throughput
request_goodput output_throughput total_token_throughput max_output_tokens_per_s max_concurrent_requests
avg_latency_ms"""
DETAILS = "input_lens output_lens ttfts itls latencies start_times generated_texts errors"


def test_the_block_is_vllm_s_with_the_average_latency_of_the_first_gllm() -> None:
    summary = summarize(OUTCOMES, 2.0, [50, 99.9], Goodput.parse(["ttft:200"]))
    assert "\n".join(report.lines(summary, METRICS, 4, 1.5)) + "\n" == FULL


def test_what_was_not_asked_has_no_line() -> None:
    summary = summarize(OUTCOMES, 2.0, [99])
    labels = [line.split(":")[0] for line in report.lines(summary, ["tpot"], None, float("inf"))]
    left_out = {"Maximum request concurrency", "Request rate configured (RPS)", "Request goodput (req/s)"}
    assert not left_out & set(labels)
    assert labels[-4:-1] == ["Mean TPOT (ms)", "Median TPOT (ms)", "P99 TPOT (ms)"]
    assert not [label for label in labels if "TTFT" in label or "ITL" in label or "E2EL" in label]


def test_the_keys_are_vllm_s() -> None:
    found = report.figures(summarize(OUTCOMES, 2.0, [50, 99.9]), METRICS)
    statistics = {
        f"{kind}_{metric}_ms" for kind in ("mean", "median", "std", "p50", "p99.9") for metric in METRICS
    }
    assert found.keys() == {*FIGURES.split(), *statistics}
    assert found["request_goodput"] is None
    assert (found["max_output_tokens_per_s"], found["max_concurrent_requests"]) == (2, 2)


def test_details_hold_every_request_failed_ones_too() -> None:
    found = report.details(OUTCOMES)
    assert found.keys() == set(DETAILS.split())
    assert found["input_lens"] == [7, 3, 9]
    assert found["output_lens"] == [2, 1, 0]
    assert found["itls"] == [[0.1], [], []]
    assert found["latencies"] == [0.2, 0.5, 0.0]
    assert found["errors"] == ["", "", "503"]
    json.dumps(found)


def test_results_replace_a_file_or_become_one_more_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    for number in range(2):
        report.save({"n": number}, path, append=False)
    assert path.read_text() == '{"n": 1}'
    report.save({"n": 2}, path, append=True)
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == [1, 2]
