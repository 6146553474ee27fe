"""A worker without tensors, for proofs about the scheduler.

What its "KV cache" holds for a position depends on every token up to it, as in a real model: a hash
of the entry before, read through the page table, and of the token. The next token derives from the
last entry. So a page given to two sequences, shared with a different prefix, read before it is
written, or computed out of order yields another token than `expected_tokens`. With a `length_bound`,
entries depend beyond it on the length that a token is computed for, as with dynamic rope; so does one
shared page where that length is another.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fake_logprobs import made_up

from gllm.protocol.logits import PromptLogprobs
from gllm.protocol.messages import Sampling, StepPlan, StepResult, WorkerReady, mask_bytes
from gllm.protocol.wire import INT32_MAX, column

START = 1
POISON = 0xDEAD


def entry_after(entry: int, token: int, length: int = 0) -> int:
    """`length`: what the token is computed for, 0 where that changes nothing."""
    return zlib.crc32(token.to_bytes(4, "little") + (length.to_bytes(4, "little") if length else b""), entry)


def allowed_after(tokens: Sequence[int], vocab_size: int) -> list[int]:
    """A grammar: about half of the vocabulary, and which half depends on every token before."""
    state = zlib.crc32(repr(list(tokens)).encode())
    chosen = [token for token in range(vocab_size) if zlib.crc32(bytes([token]), state) % 2]
    return chosen or [state % vocab_size]


def mask_after(tokens: Sequence[int], vocab_size: int) -> bytes:
    """The same as the bits of a mask."""
    return sum(1 << token for token in allowed_after(tokens, vocab_size)).to_bytes(
        mask_bytes(vocab_size), "little"
    )


def length_at(position: int, num_prompt_tokens: int, length_bound: int) -> int:
    """The prompt is computed in one piece, for its whole length; every other token for what it brings."""
    length = max(num_prompt_tokens, position + 1)
    return length if length > length_bound else 0


def expected_tokens(
    prompt: list[int],
    max_tokens: int,
    stop: set[int],
    vocab_size: int,
    is_constrained: bool = False,
    length_bound: int = INT32_MAX,
) -> list[int]:
    """What a sequence alone must generate."""
    entry = START
    for position, token in enumerate(prompt):
        entry = entry_after(entry, token, length_at(position, len(prompt), length_bound))
    generated: list[int] = []
    while len(generated) < max_tokens:
        allowed = allowed_after(prompt + generated, vocab_size) if is_constrained else range(vocab_size)
        generated.append(allowed[entry % len(allowed)])
        if generated[-1] in stop:
            break
        position = len(prompt) + len(generated) - 1
        entry = entry_after(entry, generated[-1], length_at(position, len(prompt), length_bound))
    return generated


@dataclass
class Slot:
    tokens: list[int]
    num_prompt_tokens: int
    num_computed: int
    pages: list[int]
    sampling: Sampling


class FakeWorker:
    def __init__(self, ready: WorkerReady) -> None:
        self.ready = ready
        self.cache = [[POISON] * ready.page_size for _ in range(ready.num_pages)]
        self.slots: dict[int, Slot] = {}
        self.num_computed_tokens = 0

    def step(self, plan: StepPlan) -> StepResult:
        assert plan.epoch == self.ready.epoch
        for slot in plan.released:
            del self.slots[slot]
        for admit in plan.admits:
            assert admit.slot not in self.slots
            assert admit.slot < self.ready.num_slots
            assert 0 < admit.num_prompt_tokens <= len(admit.tokens)
            self.slots[admit.slot] = Slot(
                list(admit.tokens),
                admit.num_prompt_tokens,
                admit.num_computed_tokens,
                list(admit.pages),
                admit.sampling,
            )
        for slot, page in zip(plan.page_slots, plan.new_pages, strict=True):
            self.slots[slot].pages.append(page)
        counts = list(plan.counts) or [1] * len(plan.slots)
        assert len(set(plan.slots)) == len(plan.slots)
        assert 0 < sum(counts) <= self.ready.max_num_batched_tokens
        prompt_logprobs = self._prompt_logprobs(plan.slots, counts)
        # Rows write in plan order before any row reads. The real worker writes all rows of a layer
        # before any of them attends, which lets a row read what another one writes in the same step.
        for number, count in zip(plan.slots, counts, strict=True):
            self._write(self.slots[number], count)
        sampled = [
            self._sample(self.slots[number], self._allowed(plan, row))
            for row, number in enumerate(plan.slots)
        ]
        slots = [
            self.slots[slot] for slot, token in zip(plan.slots, sampled, strict=True) if token is not None
        ]
        asked = [
            (place, len(slot.tokens) - 1, slot.tokens[-1], slot.sampling.num_logprobs)
            for place, slot in enumerate(slots)
            if slot.sampling.num_logprobs
        ]
        tokens = column(slot.tokens[-1] for slot in slots)
        logprobs = made_up(asked) if asked else None
        return StepResult(plan.epoch, plan.step, tokens, 0, 0, 0, logprobs, prompt_logprobs)

    def _prompt_logprobs(self, slots: Iterable[int], counts: list[int]) -> list[PromptLogprobs]:
        """Of the prompt tokens that stand behind those that this step computes."""
        found = []
        for row, (number, count) in enumerate(zip(slots, counts, strict=True)):
            slot = self.slots[number]
            wanted = slot.sampling.num_prompt_logprobs
            first = slot.num_computed + 1
            places = range(first, min(first + count, slot.num_prompt_tokens)) if wanted else ()
            if places:
                asked = [(place, place, slot.tokens[place], wanted) for place in places]
                found.append(PromptLogprobs(row, made_up(asked)))
        return found

    def _write(self, slot: Slot, count: int) -> None:
        assert count > 0
        assert slot.num_computed + count <= len(slot.tokens)
        for position in range(slot.num_computed, slot.num_computed + count):
            before = self._entry(slot, position - 1) if position else START
            page, offset = self._place(slot, position)
            length = length_at(position, slot.num_prompt_tokens, self.ready.length_bound)
            self.cache[page][offset] = entry_after(before, slot.tokens[position], length)
        slot.num_computed += count
        self.num_computed_tokens += count

    def _allowed(self, plan: StepPlan, row: int) -> Sequence[int] | None:
        """What the token of that row may be; None where nothing limits it."""
        if row not in plan.masked_rows:
            return None
        size = mask_bytes(self.ready.vocab_size)
        place = plan.masked_rows.index(row)
        bits = int.from_bytes(plan.masks[place * size : (place + 1) * size], "little")
        return [token for token in range(self.ready.vocab_size) if bits >> token & 1]

    def _sample(self, slot: Slot, allowed: Sequence[int] | None) -> int | None:
        if slot.num_computed < len(slot.tokens):
            assert allowed is None
            return None
        choice = range(self.ready.vocab_size) if allowed is None else allowed
        slot.tokens.append(choice[self._entry(slot, slot.num_computed - 1) % len(choice)])
        return slot.tokens[-1]

    def _entry(self, slot: Slot, position: int) -> int:
        page, offset = self._place(slot, position)
        return self.cache[page][offset]

    def _place(self, slot: Slot, position: int) -> tuple[int, int]:
        return slot.pages[position // self.ready.page_size], position % self.ready.page_size
