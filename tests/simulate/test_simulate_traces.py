"""Traces: read, stretched, shortened, and turned into tokens that agree where their blocks do."""

import gzip
import json
from pathlib import Path

import pytest
from made_up import trace

from gllm.simulate.traces import Prompts, TraceError, read_trace


def written(path: Path, *rows: object, packed: bool = True) -> Path:
    text = "\n".join(json.dumps(row) for row in rows).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    return path


@pytest.mark.parametrize("packed", [True, False])
def test_a_trace_is_read_with_and_without_gzip(tmp_path: Path, packed: bool) -> None:
    header = {"trace": "small", "block": 8, "n": 2}
    rows = {"t": 2, "in": 9, "out": 3, "b": [0, 1]}, {"t": 0.5, "in": 4, "out": 1}
    read = read_trace(written(tmp_path / "small.jsonl", header, *rows, packed=packed))
    assert (read.name, read.block_size) == ("small", 8)
    assert [(r.arrival_s, r.num_prompt_tokens, r.num_output_tokens) for r in read.requests] == [
        (0.5, 4, 1),
        (2.0, 9, 3),
    ]
    assert read.requests[1].blocks == (0, 1)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"t": -1, "in": 1, "out": 1}, ":2: t is -1"),
        ({"t": 0, "in": 0, "out": 1}, ":2: in is 0"),
        ({"t": 0, "in": 1}, ":2: out is None"),
        ({"t": 0, "in": 1, "out": 1, "b": "x"}, ":2: b is 'x'"),
        ({"t": 0, "in": 17, "out": 1, "b": [0, 1]}, ":2: 2 blocks of 8 are less than 17 tokens"),
        ([1], ":2: expected a JSON object"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, row: object, sentence: str) -> None:
    with pytest.raises(TraceError, match=sentence):
        read_trace(written(tmp_path / "wrong.jsonl", {"block": 8}, row))


def test_a_file_without_requests_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="holds no request"):
        read_trace(written(tmp_path / "empty.jsonl", {"block": 8}))


def test_a_changed_rate_stretches_time_and_keeps_bursts() -> None:
    made = trace((0.0, 1, 1), (1.0, 1, 1), (1.0, 1, 1), (4.0, 1, 1))
    assert made.rate == 1.0
    faster = made.at_rate(2.0)
    assert faster.rate == 2.0
    assert [request.arrival_s for request in faster.requests] == [0.0, 0.5, 0.5, 2.0]


def test_a_trace_of_one_moment_has_no_rate_to_change() -> None:
    with pytest.raises(TraceError, match="at once"):
        trace((0.0, 1, 1), (0.0, 1, 1)).at_rate(2.0)


def test_lengths_and_blocks_are_divided_alike() -> None:
    made = trace((0.0, 40, 3), block_size=16, blocks=((0, 1, 2),)).shortened(8)
    assert made.block_size == 2
    assert (made.requests[0].num_prompt_tokens, made.requests[0].num_output_tokens) == (5, 1)
    with pytest.raises(TraceError, match="cannot be divided by 3"):
        trace((0.0, 40, 3), block_size=16, blocks=((0, 1, 2),)).shortened(3)


def test_prompts_agree_exactly_where_their_blocks_do() -> None:
    made = trace(
        *[(0.0, 30, 1), (0.0, 25, 1), (0.0, 30, 1), (0.0, 30, 1)],
        block_size=10,
        blocks=((0, 1, 2), (0, 1, 3), (4, 1, 2), ()),
    )
    prompts = Prompts(made, vocab_size=500)
    first, second, third, alone = (prompts.tokens(number).tolist() for number in range(4))
    assert [len(tokens) for tokens in (first, second, third, alone)] == [30, 25, 30, 30]
    assert first[:20] == second[:20]
    assert first[20:25] != second[20:]
    assert first[:10] != third[:10]
    assert first[10:] == third[10:]
    assert alone[:10] not in (first[:10], third[:10])
    assert first == Prompts(made, vocab_size=500).tokens(0).tolist()
    assert all(0 <= token < 500 for token in first)


def test_the_shareable_part_is_that_of_leading_blocks_seen_before() -> None:
    made = trace(
        *[(0.0, 30, 1), (1.0, 25, 1), (2.0, 30, 1), (3.0, 20, 1)],
        block_size=10,
        # Of 105 tokens: none, 20 (two blocks), none (the same blocks behind another one), 20 (all).
        blocks=((0, 1, 2), (0, 1, 3), (4, 1, 2), (0, 1)),
    )
    assert made.shareable() == 40 / 105
