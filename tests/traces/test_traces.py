"""Timed traces: read, scaled, and made into prompts that share what their blocks share."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from gllm.bench.datasets import RandomTokens, open_tokenizer
from gllm.traces import Trace, TraceError, TraceRequest, read_trace

MODEL = Path(__file__).resolve().parent.parent.parent / "demo" / "model"
HEADER = {"trace": "t", "block": 8, "n": 4, "source": "made up"}
ROWS = [
    {"t": 0.0, "in": 20, "out": 4, "b": [0, 1, 2]},
    {"t": 1.0, "in": 24, "out": 8, "b": [0, 1, 3]},
    {"t": 4.0, "in": 1, "out": 2},
    {"t": 3.0, "in": 15, "out": 1, "b": [0, 1]},
]


def write(path: Path, *rows: Any, packed: bool = True) -> Path:
    text = "\n".join(json.dumps(row) for row in rows).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    return path


@pytest.mark.parametrize("packed", [True, False])
def test_a_trace_is_read_in_order_of_arrival(tmp_path: Path, packed: bool) -> None:
    trace = read_trace(write(tmp_path / "t", HEADER, *ROWS, packed=packed))
    assert (trace.name, trace.block_size) == ("t", 8)
    assert [one.arrival_s for one in trace.requests] == [0, 1, 3, 4]
    assert trace.requests[1].blocks == (0, 1, 3)
    assert len(trace.first(2).requests) == 2


def test_times_are_stretched_and_lengths_divided(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path / "t", HEADER, *ROWS))
    assert [one.arrival_s for one in trace.slowed(0.5).requests] == [0, 0.5, 1.5, 2]
    assert [one.arrival_s for one in trace.at_rate(2.0).requests] == [0, 0.5, 1.5, 2]
    with pytest.raises(TraceError, match="above 0"):
        trace.at_rate(-1)
    short = trace.shortened(4)
    assert short.block_size == 2
    assert [one.num_prompt_tokens for one in short.requests] == [5, 6, 3, 1]
    assert [one.num_output_tokens for one in short.requests] == [1, 2, 1, 1]
    with pytest.raises(TraceError, match="divided by 3"):
        trace.shortened(3)


@pytest.mark.parametrize("divisor", [1, 4])
def test_prompts_share_exactly_their_common_blocks(tmp_path: Path, divisor: int) -> None:
    tokens = RandomTokens(open_tokenizer(str(MODEL)), 0)
    trace = read_trace(write(tmp_path / "t", HEADER, *ROWS)).shortened(divisor)
    first, second, third, alone = (trace.prompt(index, tokens.of) for index in range(4))
    assert [len(first), len(second), len(third), len(alone)] == [
        one.num_prompt_tokens for one in trace.requests
    ]
    shared = 16 // divisor
    assert first[:shared] == second[:shared]
    assert first[shared:] != second[shared : len(first)]
    assert third == first[: len(third)]
    assert trace.prompt(0, tokens.of) == first


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "holds no request"),
        ([HEADER], "holds no request"),
        ([HEADER, [1]], "t:2: expected a JSON object"),
        ([HEADER, ROWS[0], {"t": -1, "in": 1, "out": 1}], "t:3: t is -1"),
        ([HEADER, {"t": 0, "in": 0, "out": 1}], "t:2: in is 0"),
        ([HEADER, {"t": 0, "in": 1}], "t:2: out is None"),
        ([HEADER, {"t": 0, "in": 1, "out": 1, "b": "x"}], "t:2: b is 'x'"),
        ([HEADER, {"t": 0, "in": 9, "out": 1, "b": [0]}], "1 blocks of 8 are less than 9"),
        ([{"block": "x"}, ROWS[2]], "t:1: block is 'x'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, rows: list[Any], sentence: str) -> None:
    with pytest.raises(TraceError, match=sentence):
        read_trace(write(tmp_path / "t", *rows))


def test_a_broken_file_is_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "t", HEADER, *ROWS)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TraceError, match="is no trace"):
        read_trace(path)


def arriving(*times: float) -> Trace:
    return Trace("made up", 0, [TraceRequest(time, 1, 1) for time in times])


def test_a_changed_rate_stretches_time_and_keeps_bursts() -> None:
    made = arriving(0.0, 1.0, 1.0, 4.0)
    assert made.rate == 1.0
    faster = made.at_rate(2.0)
    assert faster.rate == 2.0
    assert [request.arrival_s for request in faster.requests] == [0.0, 0.5, 0.5, 2.0]


def test_a_trace_of_one_moment_has_no_rate_to_change() -> None:
    with pytest.raises(TraceError, match="at once"):
        arriving(0.0, 0.0).at_rate(2.0)


def test_the_shareable_part_is_that_of_leading_blocks_seen_before() -> None:
    # Of 105 tokens: none, 20 (two blocks), none (the same blocks behind another one), 20 (all).
    prompts = ((30, (0, 1, 2)), (25, (0, 1, 3)), (30, (4, 1, 2)), (20, (0, 1)))
    requests = [TraceRequest(0.0, size, 1, blocks) for size, blocks in prompts]
    assert Trace("made up", 10, requests).shareable() == 40 / 105
