"""From a plan's rows and the slot tables, the input tensors of one forward pass.

Vectorised: no Python over tokens, and none over rows that decode. Changes no table. Knows nothing
of the model or of how attention is computed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gllm.worker.slots import Ints, Slots


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch. A row is a sequence's tokens of this step, rows behind one another.

    The last group of fields describes the rows that yield a token, in plan order.
    """

    token_ids: Tensor  # int64 [num_tokens]
    positions: Tensor  # int64 [num_tokens], in the sequence
    locations: Tensor  # int64 [num_tokens], page * page_size + offset of their keys and values
    page_table: Tensor  # int32 [num_rows, most pages of a row]
    num_computed: Tensor  # int32 [num_rows], tokens before this chunk
    query_start: Tensor  # int32 [num_rows + 1], prefix sum of chunk lengths
    groups: Any  # what the attention backend made of the three tables above

    sampling_tokens: Tensor  # int64 [num_sampling], indices into token_ids: each row's last
    sampling_slots: Tensor  # int64 [num_sampling]
    all_greedy: bool
    temperature: Tensor  # float32 [num_sampling]
    top_k: Tensor  # int32 [num_sampling]
    top_p: Tensor  # float32 [num_sampling]
    seed: Tensor  # int64 [num_sampling]
    sampled_position: Tensor  # int64 [num_sampling], of the token that will be drawn


def build_batch(slots: Ints, counts: Ints, tables: Slots, group_rows: Any) -> Batch:
    """The batch of checked rows (see `Slots.rows`). `group_rows` is the attention backend's."""
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
    page_table = torch.from_numpy(tables.page_table[slots, : -(-int(ends.max()) // page_size)])
    computed_tensor = torch.from_numpy(num_computed.astype(np.int32))
    start_tensor = torch.from_numpy(query_start.astype(np.int32))

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
        groups=group_rows(page_table, computed_tensor, start_tensor, page_size),
        sampling_tokens=torch.from_numpy(query_start[1:][sampling] - 1),
        sampling_slots=torch.from_numpy(sampling_slots),
        all_greedy=not temperature.any(),
        temperature=torch.from_numpy(temperature),
        top_k=torch.from_numpy(tables.top_k[sampling_slots]),
        top_p=torch.from_numpy(tables.top_p[sampling_slots]),
        seed=torch.from_numpy(tables.seed[sampling_slots]),
        sampled_position=torch.from_numpy(ends[sampling]),
    )


def _token_ids(slots: Ints, num_computed: Ints, query_start: Ints, tables: Slots) -> Tensor:
    """Known tokens from the host's copy; a token sampled since is the slot's last, on the device alone."""
    sampled = num_computed >= tables.num_known[slots]
    if sampled.all():
        return tables.last_token[torch.from_numpy(slots)]
    token_ids = np.empty(query_start[-1], np.int64)
    for row in np.flatnonzero(~sampled):
        start, end, first = query_start[row], query_start[row + 1], num_computed[row]
        token_ids[start:end] = tables.known[slots[row]][first : first + end - start]
    tensor = torch.from_numpy(token_ids)
    if sampled.any():
        tensor[torch.from_numpy(query_start[:-1][sampled])] = tables.last_token[
            torch.from_numpy(slots[sampled])
        ]
    return tensor
