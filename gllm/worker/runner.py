"""Runs the model: a plan in, one sampled token a sampling row out.

Owns the slot tables and the pages. Knows nothing of sockets, nor of why a plan is what it is.
"""

import math
import time
from array import array
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from gllm.kernels.dispatch import Operators
from gllm.protocol.messages import StepPlan
from gllm.protocol.wire import column
from gllm.worker.batch import Batch, build_batch, with_last_tokens
from gllm.worker.history import History
from gllm.worker.logprobs import Asked, Computed
from gllm.worker.models.architecture import Architecture
from gllm.worker.models.decoder import Decoder, Hidden, Pages
from gllm.worker.output import Done, Sampled, StepOutput
from gllm.worker.slots import PlanError, Slots

READ_OUT_BLOCK = 1 << 21  # logits of a prompt's tokens at once


class ModelRunner:
    """One model, its pages, and the sequences in its slots."""

    max_steps_under_way = 1

    def __init__(
        self, model: Decoder, slots: Slots, pages: Pages, operators: Operators, max_num_batched_tokens: int
    ) -> None:
        self.model = model
        self.slots = slots
        self.pages = pages
        self.operators = operators
        self.max_num_batched_tokens = max_num_batched_tokens
        self.history = History(slots.num_slots, slots.vocab_size, slots.last_token.device)
        self.forward_end_ns = 0  # of the last step, CLOCK_MONOTONIC; 0: this runner does not know
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

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> StepOutput:
        """Start a step; the tables then stand behind it. Steps run in the order of their launches.

        Raises `PlanError` for a plan that contradicts the tables.
        """
        batch = self._apply(plan)
        hidden = self.model.hidden(batch, self.pages)
        logits = self.model.read_out(hidden, batch.sampling_tokens)
        self.forward_end_ns = time.monotonic_ns()
        sampled = self.sample(batch, logits)
        if batch.prompt_logprobs is not None:
            sampled = replace(sampled, prompt_logprobs=self._prompt_logprobs(batch.prompt_logprobs, hidden))
        return Done(sampled)

    @torch.inference_mode()
    def forward(self, plan: StepPlan) -> tuple[Batch, Tensor]:
        """The batch of `plan` and the float32 logits [num_sampling, vocab] of its sampling rows.

        The tables then stand behind the plan but for the last tokens, which `sample` sets.
        """
        batch = self._apply(plan)
        return batch, self.model(batch, self.pages)

    @torch.inference_mode()
    def sample(self, batch: Batch, logits: Tensor) -> Sampled:
        """What comes of the sampling rows; the tokens are also kept as the next step's input.

        Changes `logits`, in the order that `kernels/reference.py` documents.
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

    def _apply(self, plan: StepPlan) -> Batch:
        """The batch of `plan`; the tables then stand behind the plan."""
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
        return replace(batch, token_ids=with_last_tokens(batch.token_ids, self.slots.last_token))

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
    # torch writes its zeros, which makes the system find every page of gigabytes at once; numpy asks
    # for memory that reads as zero and is found when it is first used.
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)
