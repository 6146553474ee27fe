"""From a plan's rows and the slot tables, the input tensors of one step.

Vectorised: no Python over tokens, and none over rows that decode. Changes no table. Knows nothing
of the model or of how attention is computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gllm.protocol.messages import StepPlan
from gllm.worker.logprobs import Asked, asked_of_prompts, asked_of_sampled
from gllm.worker.masks import Masks, masks_of
from gllm.worker.shaping import Entered, ShapedRows
from gllm.worker.slots import Ints, PageWrites, Slots

GroupRows = Callable[[Tensor, Tensor, Tensor, int], Any]  # `Operators.group_rows` of a model's heads


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch. A row is a sequence's tokens of this step, rows behind one another.

    Made on the host; where the device runs behind it, every tensor is uploaded, so that what the host
    must know of a step is no tensor. The last group of fields describes the rows that yield a token, in
    plan order.
    """

    token_ids: Tensor  # int64 [num_tokens]; -1 - slot: the slot's last token, which only the device has
    positions: Tensor  # int64 [num_tokens], in the sequence
    locations: Tensor  # int64 [num_tokens], page * page_size + offset of their keys and values
    page_table: Tensor  # int32 [num_rows, most pages of a row]; of all slots where the device has a copy
    num_computed: Tensor  # int32 [num_rows], tokens before this chunk
    query_start: Tensor  # int32 [num_rows + 1], prefix sum of chunk lengths
    groups: Any  # what the attention backend made of the three tables above
    rotary_lengths: Tensor | None  # int64 [num_tokens], where the rotary base follows the length
    sampling_tokens: Tensor  # int64 [num_sampling], indices into token_ids: each row's last

    page_writes: PageWrites | None  # for the device's copy of the page table, if it has one
    sampling_slots: Tensor  # int64 [num_sampling]
    all_greedy: bool
    temperature: Tensor  # float32 [num_sampling]
    top_k: Tensor  # int32 [num_sampling]
    top_p: Tensor  # float32 [num_sampling]
    seed: Tensor  # int64 [num_sampling]
    sampled_position: Tensor  # int64 [num_sampling], of the token that will be drawn
    entered: Sequence[Entered]  # whose rows of the history must be written before they are used
    shaped: ShapedRows | None
    logprobs: Asked | None  # of the tokens that will be drawn
    prompt_logprobs: Asked | None
    masks: Masks | None  # of the rows whose token a grammar limits

    @property
    def num_sampling(self) -> int:
        return len(self.sampling_slots)


def build_batch(
    plan: StepPlan,
    slots: Ints,
    counts: Ints,
    tables: Slots,
    group_rows: GroupRows,
    *,
    with_rotary_lengths: bool = False,
) -> Batch:
    """The batch of a plan whose rows have been checked (see `Slots.rows`). `group_rows` is the attention
    backend's. Raises `PlanError` where its masks do not fit the rows.

    with_rotary_lengths: for models whose rotary base follows the length of the sequence.
    """
    num_computed = tables.num_computed[slots]
    ends = num_computed + counts
    query_start = np.zeros(len(slots) + 1, np.int64)
    np.cumsum(counts, out=query_start[1:])
    num_tokens = int(query_start[-1])
    if num_tokens == len(slots):
        token_slots, positions = slots, num_computed
    else:
        token_slots = np.repeat(slots, counts)
        positions = np.arange(num_tokens) + np.repeat(num_computed - query_start[:-1], counts)
    page_size = tables.page_size
    pages = tables.page_table[token_slots, positions // page_size].astype(np.int64)
    computed_tensor = torch.from_numpy(num_computed.astype(np.int32))
    start_tensor = torch.from_numpy(query_start.astype(np.int32))
    if tables.device_pages is None:
        page_table = torch.from_numpy(tables.page_table[slots, : -(-int(ends.max()) // page_size)])
        groups = group_rows(page_table, computed_tensor, start_tensor, page_size)
    else:
        page_table = torch.empty((0, 0), dtype=torch.int32)  # the runner puts the device's in its place
        groups = group_rows(page_table, computed_tensor, start_tensor, page_size).of_table_rows(slots)

    sampling = ends == tables.num_tokens[slots]
    sampling_slots = slots[sampling]
    temperature = tables.temperature[sampling_slots]
    return Batch(
        token_ids=_token_ids(slots, num_computed, query_start, tables),
        positions=torch.from_numpy(positions),
        locations=torch.from_numpy(pages * page_size + positions % page_size),
        page_table=page_table,
        num_computed=computed_tensor,
        query_start=start_tensor,
        groups=groups,
        rotary_lengths=_rotary_lengths(token_slots, positions, tables) if with_rotary_lengths else None,
        sampling_tokens=torch.from_numpy(query_start[1:][sampling] - 1),
        page_writes=None if tables.device_pages is None else tables.take_page_writes(),
        sampling_slots=torch.from_numpy(sampling_slots),
        all_greedy=not temperature.any(),
        temperature=torch.from_numpy(temperature),
        top_k=torch.from_numpy(tables.top_k[sampling_slots]),
        top_p=torch.from_numpy(tables.top_p[sampling_slots]),
        seed=torch.from_numpy(tables.seed[sampling_slots]),
        sampled_position=torch.from_numpy(ends[sampling]),
        entered=tables.shapings.take_entered(),
        shaped=tables.shapings.rows(
            sampling_slots, ends[sampling], ends[sampling] - tables.num_prompt_tokens[sampling_slots]
        ),
        logprobs=asked_of_sampled(tables, sampling_slots),
        prompt_logprobs=asked_of_prompts(tables, slots, counts, query_start),
        masks=masks_of(plan, sampling, tables.vocab_size),
    )


def _rotary_lengths(token_slots: Ints, positions: Ints, tables: Slots) -> Tensor:
    """The whole prompt's length for its tokens, for every other one the length that it brings."""
    return torch.from_numpy(np.maximum(tables.num_prompt_tokens[token_slots], positions + 1))


def _token_ids(slots: Ints, num_computed: Ints, query_start: Ints, tables: Slots) -> Tensor:
    """Known tokens from the host's copy; a token sampled since is named by its slot."""
    sampled = num_computed >= tables.num_known[slots]
    if sampled.all():
        return torch.from_numpy(-1 - slots)
    token_ids = np.empty(query_start[-1], np.int64)
    token_ids[query_start[:-1][sampled]] = -1 - slots[sampled]
    for row in np.flatnonzero(~sampled):
        start, end, first = query_start[row], query_start[row + 1], num_computed[row]
        token_ids[start:end] = tables.known[slots[row]][first : first + end - start]
    return torch.from_numpy(token_ids)


def with_last_tokens(token_ids: Tensor, last_token: Tensor) -> Tensor:
    """`Batch.token_ids` with the tokens that slots stand for; where `last_token` is."""
    return torch.where(token_ids < 0, last_token[(-1 - token_ids).clamp_(min=0)], token_ids)
