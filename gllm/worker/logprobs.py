"""Log-probabilities of a step: which rows want some, and their way into a result.

Knows how they are packed on the wire; nothing of how they are computed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gllm.protocol.logits import Logprobs, PromptLogprobs
from gllm.protocol.wire import column, floats
from gllm.worker.slots import Slots

Ints = npt.NDArray[np.int64]

LEAST = -1e5  # of a token that cannot be: JSON has no infinity


@dataclass(frozen=True, slots=True)
class Part:
    """Adjacent positions of one owner: sampled tokens (owner -1), or prompt tokens of a row of the plan.

    places: see `Logprobs`. counts: entries of each position that were asked for, the token's own included.
    """

    owner: int
    places: Ints
    counts: Ints


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows or tokens of a step whose log-probabilities somebody wants.

    rows: int64 [num_positions], of the logits, or of the step's tokens where a prompt is read out.
    targets: int64 [num_positions], the prompt's tokens that stand there; None for those to be drawn.
    """

    rows: Tensor
    targets: Tensor | None
    num_top: int
    parts: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Computed:
    """What `Operators.logprobs` made of them, on the device or home on the host."""

    ranks: Tensor  # int64 [num_positions]
    ids: Tensor  # int64 [num_positions, 1 + num_top]
    values: Tensor  # float32, as ids
    parts: Sequence[Part]

    def of_tokens(self) -> Logprobs:
        """On the wire, those of drawn tokens; once they are home."""
        ((_, packed),) = self._packed()
        return packed

    def of_prompts(self) -> list[PromptLogprobs]:
        """On the wire, those of prompts; once they are home."""
        return [PromptLogprobs(part.owner, packed) for part, packed in self._packed()]

    def _packed(self) -> Iterator[tuple[Part, Logprobs]]:
        """Of each part: entries that only a neighbour had asked for are left out."""
        ranks, ids = self.ranks.numpy().astype(np.int32), self.ids.numpy().astype(np.int32)
        values = np.nan_to_num(self.values.numpy(), nan=LEAST, neginf=LEAST).clip(LEAST, 0.0)
        start = 0
        for part in self.parts:
            rows = slice(start, start + len(part.places))
            wanted = np.arange(ids.shape[1]) < part.counts[:, None]
            packed = Logprobs(
                places=column(part.places.astype(np.int32).tobytes()),
                counts=column(part.counts.astype(np.int32).tobytes()),
                ranks=column(ranks[rows].tobytes()),
                token_ids=column(ids[rows][wanted].tobytes()),
                values=floats(values[rows][wanted].tobytes()),
            )
            yield part, packed
            start = rows.stop


def asked_of_sampled(tables: Slots, sampling_slots: Ints) -> Asked | None:
    """Those of the tokens that a step will draw."""
    counts = tables.num_logprobs[sampling_slots]
    if not counts.any():
        return None
    rows = np.flatnonzero(counts)
    part = Part(-1, rows, counts[rows])
    return Asked(torch.from_numpy(rows), None, int(counts.max()) - 1, [part])


def asked_of_prompts(tables: Slots, slots: Ints, counts: Ints, query_start: Ints) -> Asked | None:
    """Those of prompt tokens: the logits at a position are about the token behind it."""
    wanted = tables.num_prompt_logprobs[slots]
    if not wanted.any():
        return None
    rows, targets, parts = [], [], []
    for row in np.flatnonzero(wanted):
        slot, first = slots[row], tables.num_computed[slots[row]] + 1
        places = np.arange(first, min(first + counts[row], tables.num_prompt_tokens[slot]))
        if len(places):
            rows.append(query_start[row] + np.arange(len(places)))
            targets.append(tables.known[slot][places].astype(np.int64))
            parts.append(Part(int(row), places, np.full(len(places), wanted[row])))
    if not parts:
        return None
    return Asked(
        torch.from_numpy(np.concatenate(rows)),
        torch.from_numpy(np.concatenate(targets)),
        int(wanted.max()) - 1,
        parts,
    )
