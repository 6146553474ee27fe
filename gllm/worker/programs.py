"""Decode steps as programs: what operators do, recorded once for a number of rows and replayed since.

The host's counterpart of `graphs.py`: what a step reads lies at fixed addresses, so it is copied there first.
What comes before the first layer, and sampling, are in no program. Knows nothing of how calls are recorded.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gllm.kernels.dispatch import Recorder
from gllm.worker.batch import Batch
from gllm.worker.models.decoder import Decoder, Pages

log = logging.getLogger("gllm")

MOST_ROWS = 64  # of a step that is replayed: what is called for more takes far longer than calling


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a program reads, of the most rows and the longest context that there may be."""

    residual: Tensor  # [rows, hidden size]
    cos: Tensor  # float32 [rows, rotated dims / 2]
    sin: Tensor
    locations: Tensor  # int64 [rows]
    page_table: Tensor  # int32 [rows, pages of the longest context]
    num_computed: Tensor  # int32 [rows]
    query_start: Tensor  # int32 [rows + 1], counting up: a token a row


class DecodePrograms:
    """The programs of one model, by number of rows."""

    def __init__(
        self, model: Decoder, pages: Pages, recorder: Recorder, *, most_rows: int, most_pages: int
    ) -> None:
        """most_pages: of one sequence."""
        self._model = model
        self._pages = pages
        self._recorder = recorder
        self._most_rows = min(most_rows, MOST_ROWS)
        self._most_pages = most_pages
        self._inputs: Inputs | None = None
        self._replays: dict[int, tuple[Callable[[], None], Tensor]] = {}
        self.obstacle = ""  # what the model does that cannot be recorded

    def logits(self, batch: Batch) -> Tensor | None:
        """float32 [rows, vocab], which the next call overwrites. None if the batch is not for a program: it
        has chunks, rows that are not sampled or more rows than programs are made for, or the model has none.
        """
        rows = len(batch.query_start) - 1
        if self.obstacle or rows > self._most_rows or not rows == len(batch.token_ids) == batch.num_sampling:
            return None
        if batch.prompt_logprobs is not None:
            return None
        inputs = self._filled(batch, rows)
        if rows not in self._replays:
            return self._recorded(batch, inputs, rows)
        replay, logits = self._replays[rows]
        replay()
        return logits

    def _recorded(self, batch: Batch, inputs: Inputs, rows: int) -> Tensor:
        batch = replace(
            batch,
            locations=inputs.locations[:rows],
            page_table=inputs.page_table[:rows],
            num_computed=inputs.num_computed[:rows],
            query_start=inputs.query_start[: rows + 1],
        )
        cos_sin = inputs.cos[:rows], inputs.sin[:rows]

        def compute() -> Tensor:
            model = self._model
            return model.read_out(model.through_layers(inputs.residual[:rows], cos_sin, batch, self._pages))

        logits, replay = self._recorder.record(compute)
        if isinstance(replay, str):
            log.info("decode steps run call by call: the model needs %s, which is not recorded", replay)
            self.obstacle = replay
            self._inputs = None
        else:
            self._replays[rows] = replay, logits
        return logits

    def _filled(self, batch: Batch, rows: int) -> Inputs:
        residual, (cos, sin) = self._model.embedded(batch), self._model.angles(batch)
        if self._inputs is None:
            self._inputs = self._allocated(residual, cos)
        inputs = self._inputs
        inputs.residual[:rows] = residual
        inputs.cos[:rows] = cos
        inputs.sin[:rows] = sin
        inputs.locations[:rows] = batch.locations
        inputs.page_table[:rows, : batch.page_table.shape[1]] = batch.page_table
        inputs.num_computed[:rows] = batch.num_computed
        return inputs

    def _allocated(self, residual: Tensor, cos: Tensor) -> Inputs:
        rows = self._most_rows
        return Inputs(
            residual.new_empty(rows, residual.shape[1]),
            cos.new_empty(rows, cos.shape[1]),
            cos.new_empty(rows, cos.shape[1]),
            torch.empty(rows, dtype=torch.int64),
            torch.zeros(rows, self._most_pages, dtype=torch.int32),
            torch.empty(rows, dtype=torch.int32),
            torch.arange(rows + 1, dtype=torch.int32),
        )
