"""A worker without tensors, for proofs about the scheduler.

Its "KV cache" holds the tokens themselves, and its "model" derives the next token from what it
reads back through the page table: a page given to two sequences, or a row computed out of order,
yields another token than `expected_tokens`.
"""

import zlib
from array import array
from dataclasses import dataclass, field

from gllm.protocol.messages import StepPlan, StepResult, WorkerReady
from gllm.protocol.wire import column


def next_token(tokens: list[int], vocab_size: int) -> int:
    return zlib.crc32(array("i", tokens).tobytes()) % vocab_size


def expected_tokens(prompt: list[int], max_tokens: int, stop: set[int], vocab_size: int) -> list[int]:
    """What a sequence alone must generate."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + max_tokens:
        tokens.append(next_token(tokens, vocab_size))
        if tokens[-1] in stop:
            break
    return tokens[len(prompt) :]


@dataclass
class Slot:
    tokens: list[int]
    num_computed: int
    pages: list[int] = field(default_factory=list)


class FakeWorker:
    def __init__(self, ready: WorkerReady) -> None:
        self.ready = ready
        self.cache = [[-1] * ready.page_size for _ in range(ready.num_pages)]
        self.slots: dict[int, Slot] = {}
        self.num_computed_tokens = 0

    def step(self, plan: StepPlan) -> StepResult:
        assert plan.epoch == self.ready.epoch
        for slot in plan.released:
            del self.slots[slot]
        for admit in plan.admits:
            assert admit.slot not in self.slots
            assert admit.slot < self.ready.num_slots
            self.slots[admit.slot] = Slot(list(admit.tokens), admit.num_computed_tokens, list(admit.pages))
        for slot, page in zip(plan.page_slots, plan.new_pages, strict=True):
            self.slots[slot].pages.append(page)
        counts = list(plan.counts) or [1] * len(plan.slots)
        assert len(set(plan.slots)) == len(plan.slots)
        assert 0 < sum(counts) <= self.ready.max_num_batched_tokens
        # All rows write before any row reads, as every layer of the real worker does.
        for number, count in zip(plan.slots, counts, strict=True):
            self._write(self.slots[number], count)
        sampled = [self._sample(self.slots[number]) for number in plan.slots]
        return StepResult(plan.epoch, plan.step, column(t for t in sampled if t is not None), 0, 0, 0)

    def _write(self, slot: Slot, count: int) -> None:
        assert count > 0
        assert slot.num_computed + count <= len(slot.tokens)
        for position in range(slot.num_computed, slot.num_computed + count):
            page = slot.pages[position // self.ready.page_size]
            self.cache[page][position % self.ready.page_size] = slot.tokens[position]
        slot.num_computed += count
        self.num_computed_tokens += count

    def _sample(self, slot: Slot) -> int | None:
        if slot.num_computed < len(slot.tokens):
            return None
        size = self.ready.page_size
        read = [self.cache[slot.pages[i // size]][i % size] for i in range(slot.num_computed)]
        slot.tokens.append(next_token(read, self.ready.vocab_size))
        return slot.tokens[-1]
