"""Runs the model: a plan in, one sampled token a sampling row out.

Owns the slot tables and the pages. Knows nothing of sockets, nor of why a plan is what it is.
"""

import math
import time
from array import array
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from gllm.kernels import large_pages
from gllm.kernels.dispatch import Operators
from gllm.protocol.messages import StepPlan
from gllm.protocol.wire import column
from gllm.worker.batch import Batch, build_batch, with_last_tokens
from gllm.worker.history import History
from gllm.worker.launch_path import InPlace, LaunchPath
from gllm.worker.logprobs import Asked, Computed
from gllm.worker.models.architecture import Architecture
from gllm.worker.models.decoder import Decoder, Hidden, Pages
from gllm.worker.output import Sampled, StepOutput
from gllm.worker.programs import DecodePrograms
from gllm.worker.slots import PlanError, Slots

READ_OUT_BLOCK = 1 << 21  # logits of a prompt's tokens at once


class ModelRunner:
    """One model, its pages, and the sequences in its slots."""

    def __init__(
        self,
        model: Decoder,
        slots: Slots,
        pages: Pages,
        operators: Operators,
        max_num_batched_tokens: int,
        path: LaunchPath | None = None,
    ) -> None:
        """path: how steps get to the device; without it the host computes in place."""
        self.model = model
        self.slots = slots
        self.pages = pages
        self.operators = operators
        self.max_num_batched_tokens = max_num_batched_tokens
        self.history = History(slots.num_slots, slots.vocab_size, slots.last_token.device)
        self.forward_end_ns = 0  # of the last step, CLOCK_MONOTONIC; 0: this runner does not know
        self._path = path or InPlace()
        self._programs: DecodePrograms | None = None
        if operators.recorder is not None:
            self._programs = DecodePrograms(
                model,
                pages,
                operators.recorder(),
                most_rows=slots.num_slots,
                most_pages=-(-slots.max_model_len // slots.page_size),
            )
        facts = model.facts
        self._group_rows = partial(
            operators.group_rows,
            num_heads=facts.num_heads,
            num_kv_heads=facts.num_kv_heads,
            head_dim=facts.head_dim,
        )

    def step(self, plan: StepPlan) -> "array[int]":
        """The sampled tokens of `plan`, one a sampling row in plan order; waits for them."""
        return column(self.launch(plan).take().tokens.tolist())

    @property
    def max_steps_under_way(self) -> int:
        return self._path.max_steps_under_way

    @property
    def has_graphs(self) -> bool:
        """Whether steps may be replayed from graphs."""
        return self._path.has_graphs

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> StepOutput:
        """Start a step; the tables then stand behind it. Steps run in the order of their launches.

        Raises `PlanError` for a plan that contradicts the tables.
        """
        return self._path.launch(self.batch_of(plan), self)

    @torch.inference_mode()
    def batch_of(self, plan: StepPlan) -> Batch:
        """The batch of `plan`, on the host. The tables then stand behind the plan but for the last tokens,
        which `sample` sets."""
        self.slots.apply(plan)
        slots, counts = self.slots.rows(plan)
        if not 0 < counts.sum() <= self.max_num_batched_tokens:
            raise PlanError(
                f"the plan has {counts.sum()} tokens, but a step takes 1 to {self.max_num_batched_tokens}"
            )
        batch = build_batch(
            plan,
            slots,
            counts,
            self.slots,
            self._group_rows,
            with_rotary_lengths=self.model.facts.rotary.length_bound is not None,
        )
        self.slots.advance(slots, counts)
        return batch

    # ---- the parts of a step, of a batch that is where the model is ---------------------------------

    @torch.inference_mode()
    def prepare(self, batch: Batch) -> None:
        """Bring the device's page table up to date."""
        if batch.page_writes is not None:
            self.slots.write_pages(batch.page_writes)

    @torch.inference_mode()
    def compute(self, batch: Batch) -> Sampled:
        """What comes of a batch whose tables are up to date."""
        logits, hidden = self._forward(batch)
        if not self._path.runs_behind_host:
            self.forward_end_ns = time.monotonic_ns()
        sampled = self.sample(batch, logits.float())
        if batch.prompt_logprobs is not None and hidden is not None:
            sampled = replace(sampled, prompt_logprobs=self._prompt_logprobs(batch.prompt_logprobs, hidden))
        return sampled

    @torch.inference_mode()
    def logits(self, batch: Batch) -> Tensor:
        """Logits [num_sampling, vocab] of the sampling rows in the dtype in which they are computed; writes
        all rows' keys and values."""
        return self._forward(batch)[0]

    def _forward(self, batch: Batch) -> tuple[Tensor, Hidden | None]:
        """Logits of the sampling rows and what they were read out of, which a program does not leave."""
        batch = replace(batch, token_ids=with_last_tokens(batch.token_ids, self.slots.last_token))
        if self.slots.device_pages is not None:
            batch = replace(batch, page_table=self.slots.device_pages)
        if self._programs is not None:
            logits = self._programs.logits(batch)
            if logits is not None:
                return logits, None
        hidden = self.model.hidden(batch, self.pages)
        return self.model.read_out_narrow(hidden, batch.sampling_tokens), hidden

    @torch.inference_mode()
    def sample(self, batch: Batch, logits: Tensor) -> Sampled:
        """What comes of the sampling rows; the tokens are also kept as the next step's input.

        Changes `logits`, in the order that `kernels/reference_logits.py` documents.
        """
        asked = batch.logprobs
        own = None if asked is None else logits[asked.rows]  # a copy, before anything changes them
        self.history.enter(batch.entered)
        if batch.masks is not None:
            self.operators.apply_masks(logits, batch.masks.rows, batch.masks.bits)
        if batch.shaped is not None:
            self.history.shape(self.operators, logits, batch.shaped)
        tokens = self._draw(batch, logits)
        self.slots.last_token[batch.sampling_slots] = tokens
        if batch.shaped is not None:
            self.history.add(batch.shaped, tokens)
        if asked is None or own is None:
            return Sampled(tokens)
        computed = self.operators.logprobs(own, tokens[asked.rows], asked.num_top)
        return Sampled(tokens, Computed(*computed, asked.parts))

    def _draw(self, batch: Batch, logits: Tensor) -> Tensor:
        """int64 [num_sampling]."""
        if batch.all_greedy:
            return self.operators.greedy(logits)
        return self.operators.sample(
            logits,
            batch.temperature,
            batch.top_k,
            batch.top_p,
            batch.seed,
            batch.sampled_position,
            None if batch.shaped is None else batch.shaped.log_min_p,
        )

    def _prompt_logprobs(self, asked: Asked, hidden: Hidden) -> Computed:
        """Log-probabilities of prompt tokens, read out in blocks: a chunk has many and each a vocabulary."""
        assert asked.targets is not None
        block = max(1, READ_OUT_BLOCK // self.slots.vocab_size)
        parts = []
        for start in range(0, len(asked.rows), block):
            logits = self.model.read_out(hidden, asked.rows[start : start + block])
            targets = asked.targets[start : start + block]
            parts.append(self.operators.logprobs(logits, targets, asked.num_top))
        ranks, ids, values = (torch.cat(part) for part in zip(*parts, strict=True))
        return Computed(ranks, ids, values, asked.parts)


def allocate_pages(
    facts: Architecture, num_pages: int, page_size: int, dtype: torch.dtype, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer, [num_pages, page_size, num_kv_heads, head_dim].

    Zeros, not whatever memory held: a masked token weighs 0, but 0 times NaN is NaN.
    """
    shape = (num_pages, page_size, facts.num_kv_heads, facts.head_dim)
    return [(_zeros(shape, dtype, device), _zeros(shape, dtype, device)) for _ in range(facts.num_layers)]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # torch writes its zeros, which makes the system find every page of gigabytes at once.
    return large_pages.mapped(math.prod(shape) * dtype.itemsize).view(dtype).view(shape)
