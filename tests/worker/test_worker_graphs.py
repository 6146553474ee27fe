"""Which steps become graphs, how they are padded, and that a replay reads what its step brought."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from late_device import LateDevice
from torch import Tensor

from gllm.worker.batch import Batch
from gllm.worker.graphs import MOST_TOKENS, DecodeGraphs, buckets_for
from gllm.worker.launch_path import BehindHost
from gllm.worker.output import Sampled
from gllm.worker.slots import PageWrites

VOCAB = 50


@dataclass(frozen=True)
class Work:
    """Attention's work, as far as graphs look at it."""

    table: Tensor
    num_splits: int
    num_tiles: int = 0

    def padded(self, num_splits: int, num_decodes: int) -> "Work":
        assert self.num_splits <= num_splits
        table = torch.full((num_splits + num_decodes,), 0)
        table[: len(self.table)] = self.table
        return replace(self, table=table, num_splits=num_splits)


def batch_of(num_tokens: int, *, num_splits: int | None = None, num_tiles: int = 0, first: int = 0) -> Batch:
    """Decode rows whose token ids count up from `first`."""
    index = torch.arange(num_tokens)
    splits = num_tokens if num_splits is None else num_splits
    nothing: Any = torch.zeros(num_tokens)
    return Batch(
        token_ids=index + first, positions=index, locations=index, page_table=torch.empty((0, 0)).int(),
        num_computed=index.int(), query_start=torch.arange(num_tokens + 1).int(),
        groups=Work(index, splits, num_tiles), rotary_lengths=None, sampling_tokens=index,
        page_writes=PageWrites(index[:0], index[:0].int()), sampling_slots=index, all_greedy=True,
        temperature=nothing, top_k=nothing.int(), top_p=nothing, seed=index, sampled_position=index,
        entered=[], shaped=None, logprobs=None, prompt_logprobs=None, masks=None,
    )  # fmt: skip


class Echo:
    """A model whose likeliest next token is the one it was given plus one."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def prepare(self, batch: Batch) -> None:
        assert batch.page_writes is not None

    def logits(self, batch: Batch) -> Tensor:
        self.lengths.append(len(batch.token_ids))
        return torch.nn.functional.one_hot(
            (batch.token_ids[batch.sampling_tokens] + 1) % VOCAB, VOCAB
        ).float()

    def compute(self, batch: Batch) -> Sampled:
        return self.sample(batch, self.logits(batch))

    def sample(self, batch: Batch, logits: Tensor) -> Sampled:
        assert len(logits) == batch.num_sampling
        return Sampled(logits.argmax(-1))


def graphs_on(device: LateDevice, max_num_seqs: int = 16, **more: int) -> DecodeGraphs:
    buckets = buckets_for(max_num_seqs)
    limits = {"row_splits": 4, "most_splits": 24} | more
    return DecodeGraphs(device, torch.zeros(buckets[-1], VOCAB), buckets, **limits)


@pytest.mark.parametrize("most", [1, 2, 3, 100, 256, MOST_TOKENS, 4000])
def test_buckets_go_up_to_what_can_run_at_once(most: int) -> None:
    buckets = buckets_for(most)
    assert list(buckets) == sorted(set(buckets))
    assert buckets[-1] == min(most, MOST_TOKENS)
    assert buckets[0] == 1


def test_buckets_begin_at_the_fewest_tokens_of_a_step() -> None:
    assert buckets_for(256, 32)[:3] == (32, 40, 48)
    assert buckets_for(256, 32)[-1] == 256
    assert buckets_for(4, 32) == (32,)


def test_a_step_takes_the_next_bucket_and_what_does_not_fit_takes_none() -> None:
    graphs = graphs_on(LateDevice(0), 16)
    assert [graphs.bucket_of(batch_of(n)) for n in (1, 2, 3, 4, 5, 8, 9, 16)] == [1, 2, 4, 4, 8, 8, 16, 16]
    assert graphs.bucket_of(batch_of(17)) is None
    assert graphs.bucket_of(batch_of(2, num_tiles=1)) is None
    assert graphs.bucket_of(batch_of(4, num_splits=16)) == 4  # four rows of the longest context
    assert graphs.bucket_of(batch_of(16, num_splits=41)) is None  # more than the pool holds


@pytest.mark.parametrize("first", [3, 11])
def test_what_the_forward_pass_reads_has_lengths_that_follow_from_the_bucket(first: int) -> None:
    graphs = graphs_on(LateDevice(0), 16)
    padded = graphs.padded(batch_of(5, first=first), 8)
    assert padded.token_ids.tolist() == [first + n for n in range(5)] + [0] * 3
    assert padded.locations.tolist() == [0, 1, 2, 3, 4, -1, -1, -1]  # nothing is written for padding
    assert len(padded.query_start) == 9
    assert {len(padded.positions), len(padded.num_computed), len(padded.sampling_tokens)} == {8}
    assert padded.groups.num_splits == 32
    assert padded.num_sampling == 5


@pytest.mark.parametrize("seed", range(10))
def test_every_step_gets_its_tokens_from_a_graph_that_was_recorded_for_another(seed: int) -> None:
    device = LateDevice(seed)
    path, model = BehindHost(device, graphs_on(device), input_bytes=4096, output_bytes=256), Echo()
    under_way, sizes = [], [3, 4, 3, 9, 4, 12, 3, 16, 17, 2, 2, 2, 9]
    for step, size in enumerate(sizes):
        device.work(device.source.randrange(6))
        under_way.append((step, size, path.launch(batch_of(size, first=step), model)))
        if len(under_way) == path.max_steps_under_way or step == len(sizes) - 1:
            number, count, output = under_way.pop(0)
            assert output.take().tokens.tolist() == [number + n + 1 for n in range(count)]
    device.synchronize()
    # Buckets 4, 16 and 2 came up again and were recorded then; 17 rows have no graph.
    assert device.log.count("capture") == 3
    assert device.log.count("replay") == len(sizes) - len([4, 16, 17, 2])
    assert set(model.lengths) == {4, 16, 17, 2}


def test_graphs_are_recorded_anew_when_the_inputs_have_moved() -> None:
    device = LateDevice(0)
    path = BehindHost(device, graphs_on(device), input_bytes=1500, output_bytes=256)
    for step in range(3):
        assert path.launch(batch_of(2, first=step), Echo()).take().tokens.tolist() == [step + 1, step + 2]
    path.launch(batch_of(40), Echo()).take()  # needs more room than there is
    assert path.launch(batch_of(2, first=30), Echo()).take().tokens.tolist() == [31, 32]
    assert device.log.count("capture") == 2


def test_steps_of_few_tokens_are_padded_to_the_fewest() -> None:
    path, model = BehindHost(LateDevice(0), None, input_bytes=4096, output_bytes=256, fewest_tokens=8), Echo()
    for size in (3, 8, 9):
        assert path.launch(batch_of(size), model).take().tokens.tolist() == list(range(1, size + 1))
    assert model.lengths == [8, 8, 9]


def test_without_graphs_no_step_is_padded() -> None:
    device = LateDevice(0)
    path, model = BehindHost(device, None, input_bytes=4096, output_bytes=256), Echo()
    assert path.launch(batch_of(3), model).take().tokens.tolist() == [1, 2, 3]
    assert path.launch(batch_of(3, first=5), model).take().tokens.tolist() == [6, 7, 8]
    assert model.lengths == [3, 3]
    assert not path.has_graphs
    assert "capture" not in device.log
