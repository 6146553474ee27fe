"""The device tables: what the worker knows of the sequence in each slot.

Follows plans and trusts none: whatever does not fit the tables raises `PlanError` before anything
is written out of bounds. Knows nothing of the model, nor why a plan is what it is.

All of it but the sampled tokens follows from the plans, so that it is kept on the host as numpy
columns; `last_token` alone lives on the device, where sampling writes it and the next step reads it.
A device that runs behind the host has a copy of the page table, too: what a plan changes of it travels
with the step (`PageWrites`) and is written before the step's forward pass.
"""

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gllm.protocol.messages import Admit, StepPlan
from gllm.worker.shaping import SlotShapings

Ints = npt.NDArray[np.int64]


class PlanError(ValueError):
    """A plan contradicts the tables: a bug of the scheduler, after which no row can be trusted."""


@dataclass(frozen=True, slots=True)
class PageWrites:
    """What a plan changes of the page table, for the device's copy of it."""

    entries: Tensor  # int64 [num_writes], slot * pages of a slot + index; no two alike
    pages: Tensor  # int32 [num_writes]


class Slots:
    """One row of every table a slot; a slot is in use while it has tokens.

    num_tokens counts known tokens (prompt, and what followed before a preemption) and tokens sampled
    since; of these, num_computed have their keys and values in pages, or will when the plans so far
    have run.
    """

    def __init__(
        self,
        num_slots: int,
        num_pages: int,
        page_size: int,
        max_model_len: int,
        vocab_size: int,
        device: torch.device,
        *,
        pages_on_device: bool = False,
    ) -> None:
        self.num_slots = num_slots
        self.pool_pages = num_pages
        self.page_size = page_size
        self.max_model_len = max_model_len
        self.vocab_size = vocab_size
        self.known: list[npt.NDArray[np.int32]] = [np.empty(0, np.int32)] * num_slots
        self.num_known = np.zeros(num_slots, np.int64)
        self.num_prompt_tokens = np.zeros(num_slots, np.int64)
        self.num_tokens = np.zeros(num_slots, np.int64)
        self.num_computed = np.zeros(num_slots, np.int64)
        self.page_table = np.zeros((num_slots, -(-max_model_len // page_size)), np.int32)
        self.num_pages = np.zeros(num_slots, np.int64)
        self.temperature = np.zeros(num_slots, np.float32)
        self.top_k = np.zeros(num_slots, np.int32)
        self.top_p = np.ones(num_slots, np.float32)
        self.seed = np.zeros(num_slots, np.int64)
        self.num_logprobs = np.zeros(num_slots, np.int64)
        self.num_prompt_logprobs = np.zeros(num_slots, np.int64)
        self.shapings = SlotShapings(vocab_size)
        self.last_token = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self.device_pages = (
            torch.zeros(self.page_table.shape, dtype=torch.int32, device=device) if pages_on_device else None
        )
        self._page_writes: list[tuple[Ints, Ints]] = []

    def apply(self, plan: StepPlan) -> None:
        """Take over what the plan says of slots: released, admits, new pages, in this order."""
        if plan.released:
            self._release(_ints(plan.released))
        for admit in plan.admits:
            self._admit(admit)
        if plan.new_pages:
            self._add_pages(_ints(plan.page_slots), _ints(plan.new_pages))

    def rows(self, plan: StepPlan) -> tuple[Ints, Ints]:
        """The plan's rows, checked: int64 slots and counts, one each a row."""
        slots = _ints(plan.slots)
        counts = _ints(plan.counts) if plan.counts else np.ones(len(slots), np.int64)
        self._must_be_in_use(slots, "computes")
        if np.bincount(slots, minlength=1).max() > 1:
            raise PlanError("the plan has two rows for one slot")
        ends = self.num_computed[slots] + counts
        wrong = (
            (counts < 1) | (ends > self.num_tokens[slots]) | (ends > self.num_pages[slots] * self.page_size)
        )
        if wrong.any():
            slot = int(slots[wrong][0])
            raise PlanError(
                f"the plan computes {counts[wrong][0]} tokens of slot {slot}, which has "
                f"{self.num_computed[slot]} of {self.num_tokens[slot]} computed and {self.num_pages[slot]} "
                f"pages of {self.page_size}"
            )
        return slots, counts

    def advance(self, slots: Ints, counts: Ints) -> None:
        """The rows are on their way: their tokens count as computed, and who reached the end has one more."""
        self.num_computed[slots] += counts
        self.num_tokens[slots] += self.num_computed[slots] == self.num_tokens[slots]

    def take_page_writes(self) -> PageWrites:
        """What the plans since the last call changed of the page table, on the host."""
        entries, pages = zip(*self._page_writes, strict=True) if self._page_writes else ((), ())
        self._page_writes = []
        return PageWrites(
            torch.from_numpy(np.concatenate(entries, dtype=np.int64) if entries else np.empty(0, np.int64)),
            torch.from_numpy(np.concatenate(pages, dtype=np.int32) if pages else np.empty(0, np.int32)),
        )

    def write_pages(self, writes: PageWrites) -> None:
        """Bring the device's copy of the page table up to date; `writes` is on the device."""
        if self.device_pages is not None and len(writes.pages):
            self.device_pages.view(-1).scatter_(0, writes.entries, writes.pages)

    def check(self) -> None:
        """Raise `AssertionError` unless the tables agree with each other."""
        used = self.num_known > 0
        assert all(len(tokens) == count for tokens, count in zip(self.known, self.num_known, strict=True))
        for column in (self.num_tokens, self.num_computed, self.num_pages):
            assert not column[~used].any()
        assert (self.num_tokens >= self.num_known).all()
        assert ((self.num_prompt_tokens > 0) == used).all()
        assert (self.num_prompt_tokens <= self.num_known).all()
        assert (self.num_computed[used] < self.num_tokens[used]).all()
        # Only a sequence whose known tokens are all computed has sampled, and it lacks that token alone.
        sampled = self.num_tokens > self.num_known
        assert (self.num_computed[sampled] == self.num_tokens[sampled] - 1).all()
        assert (self.num_computed <= self.num_pages * self.page_size).all()
        assert (self.num_pages <= self.page_table.shape[1]).all()
        assert ((self.page_table >= 0) & (self.page_table < self.pool_pages)).all()
        assert ((self.last_token >= 0) & (self.last_token < self.vocab_size)).all()

    def _release(self, slots: Ints) -> None:
        self._must_be_in_use(slots, "releases")
        columns = (self.num_known, self.num_prompt_tokens, self.num_tokens, self.num_computed, self.num_pages)
        for column in columns:
            column[slots] = 0
        for slot in slots:
            self.known[slot] = np.empty(0, np.int32)
        self.shapings.leave(slots)

    def _admit(self, admit: Admit) -> None:
        slot, tokens = admit.slot, np.frombuffer(admit.tokens, np.int32)
        if slot >= self.num_slots or self.num_known[slot]:
            raise PlanError(f"the plan admits to slot {slot}, which is in use or not below {self.num_slots}")
        if not 0 < len(tokens) <= self.max_model_len or not 0 <= admit.num_computed_tokens < len(tokens):
            raise PlanError(
                f"the plan admits {len(tokens)} tokens, {admit.num_computed_tokens} of them computed, but at "
                f"least one is to be computed and at most {self.max_model_len} fit"
            )
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            raise PlanError(
                f"the plan admits tokens of [{tokens.min()}, {tokens.max()}], but the vocabulary has "
                f"{self.vocab_size}"
            )
        if not 0 < admit.num_prompt_tokens <= len(tokens):
            raise PlanError(f"the plan admits {len(tokens)} tokens, {admit.num_prompt_tokens} of a prompt")
        self.known[slot] = tokens
        self.num_prompt_tokens[slot] = admit.num_prompt_tokens
        self.num_known[slot] = self.num_tokens[slot] = len(tokens)
        self.num_computed[slot] = admit.num_computed_tokens
        self._add_pages(np.full(len(admit.pages), slot, np.int64), _ints(admit.pages))
        sampling = admit.sampling
        self.temperature[slot] = sampling.temperature
        self.top_k[slot] = sampling.top_k
        self.top_p[slot] = sampling.top_p
        self.seed[slot] = sampling.seed
        self.num_logprobs[slot] = sampling.num_logprobs
        self.num_prompt_logprobs[slot] = sampling.num_prompt_logprobs
        if max(sampling.num_logprobs, sampling.num_prompt_logprobs) > self.vocab_size + 1:
            raise PlanError(f"the plan asks for the likeliest of more than {self.vocab_size} tokens")
        if sampling.shaping is not None:
            try:
                self.shapings.enter(slot, sampling.shaping, tokens, admit.num_prompt_tokens)
            except ValueError as error:
                raise PlanError(str(error)) from None
        if self.num_computed[slot] > self.num_pages[slot] * self.page_size:
            raise PlanError(f"the plan admits {self.num_computed[slot]} computed tokens without their pages")

    def _add_pages(self, slots: Ints, pages: Ints) -> None:
        """Put pages[i] behind the others of slots[i]."""
        self._must_be_in_use(slots, "gives a page to")
        if len(pages) and pages.max() >= self.pool_pages:
            raise PlanError(f"the plan gives away page {pages.max()}, but there are {self.pool_pages}")
        order = np.argsort(slots, kind="stable")
        slots, pages = slots[order], pages[order]
        added = np.bincount(slots, minlength=self.num_slots)
        if (self.num_pages + added > self.page_table.shape[1]).any():
            raise PlanError(f"the plan gives a slot more pages than {self.max_model_len} tokens need")
        first = (np.cumsum(added) - added)[slots]  # where the slot's pages begin in the sorted columns
        index = self.num_pages[slots] + np.arange(len(slots)) - first
        self.page_table[slots, index] = pages
        if self.device_pages is not None and len(pages):
            self._page_writes.append((slots * self.page_table.shape[1] + index, pages))
        self.num_pages += added

    def _must_be_in_use(self, slots: Ints, verb: str) -> None:
        if len(slots) and (slots.max() >= self.num_slots or not self.num_known[slots].all()):
            raise PlanError(f"the plan {verb} slot {slots.tolist()[:8]}, of which one is not in use")


def _ints(column: "array[int]") -> Ints:
    return np.frombuffer(column, np.int32).astype(np.int64)
