"""The scheduler's decisions: pure, without clock, socket, randomness or tensors.

    submit, cancel  ->  waiting  --plan-->  running  --commit-->  tokens, finished

`plan` builds one micro-batch: running decodes first, then chunks of running prompts, then new
prompts, all under one budget of tokens. Several plans may be in flight; a sequence may be in all
of them, since the worker itself keeps the token that the next plan needs.

Stream order is the lock: the worker runs plans in the order they were made. Hence slots and pages
of a sequence may be given away while one of its rows is still in flight: whoever gets them writes
later. A row whose sequence has left is struck out and its token dropped.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from gllm.protocol.messages import (
    Admit,
    Finished,
    FinishReason,
    RejectCode,
    Rejected,
    Stats,
    StepPlan,
    StepResult,
    Submit,
    Tokens,
    WorkerReady,
)
from gllm.protocol.wire import INT64_MAX, column
from gllm.scheduler.pages import PagePool
from gllm.scheduler.policy import fcfs
from gllm.scheduler.sequence import NO_SLOT, Sequence, known_tokens


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a step and the queue."""

    max_num_seqs: int  # rows of a step, and sequences that run at once
    max_num_batched_tokens: int  # tokens of a step
    max_num_queued_reqs: int  # sequences that wait


@dataclass(slots=True)
class Flight:
    """A plan whose result has not come. A row is struck out (None) when its sequence has left."""

    step: int
    planned_at: float  # seconds, the caller's clock
    rows: list[Sequence | None] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # tokens of each row
    samples: list[bool] = field(default_factory=list)  # whether the row yields a token

    def add(self, sequence: Sequence, count: int, samples: bool) -> None:
        self.rows.append(sequence)
        self.counts.append(count)
        self.samples.append(samples)

    def strike(self, sequence: Sequence) -> None:
        """Let the result pass by `sequence`, which has at most one row in a plan."""
        if sequence in self.rows:
            self.rows[self.rows.index(sequence)] = None


@dataclass(slots=True)
class Draft:
    """A micro-batch while it is being put together."""

    flight: Flight
    budget: int  # tokens that it may still take
    admits: list[Admit] = field(default_factory=list)
    page_slots: list[int] = field(default_factory=list)
    new_pages: list[int] = field(default_factory=list)
    prompts: list[Sequence] = field(default_factory=list)  # running ones that are not yet computed
    preempted: bool = False  # somebody had to make room


class Scheduler:
    """Sequences, their slots and pages, and the plans in flight."""

    def __init__(self, limits: Limits, worker: WorkerReady) -> None:
        self.limits = limits
        self.waiting: list[Sequence] = []  # in the policy's order
        self.running: list[Sequence] = []  # in the policy's order
        self.flights: deque[Flight] = deque()
        self.num_steps = 0
        self.num_preemptions = 0
        self.num_prompt_tokens = 0
        self.num_generated_tokens = 0
        self._requests: dict[tuple[bytes, int], list[Sequence]] = {}
        self._num_arrivals = 0
        self.worker_ready(worker)

    # ---- requests ------------------------------------------------------------------------------

    def submit(self, frontend: bytes, request: Submit) -> Rejected | None:
        """Queue every output of `request`, or say why not."""
        refusal = self._refusal(frontend, request)
        if refusal is not None:
            code, sentence = refusal
            return Rejected(request.request_id, code, sentence)
        sequences = [self._sequence(frontend, request, output) for output in range(request.n)]
        self._requests[frontend, request.request_id] = sequences
        for sequence in sequences:
            insort(self.waiting, sequence, key=fcfs)
        return None

    def cancel(self, frontend: bytes, request_ids: Iterable[int]) -> None:
        """End these requests without another word; unknown ones have ended already."""
        for request_id in request_ids:
            for sequence in list(self._requests.get((frontend, request_id), ())):
                self._end(sequence)

    def frontend_lost(self, frontend: bytes) -> None:
        """End every request of a frontend that is gone."""
        self.cancel(frontend, [request_id for owner, request_id in self._requests if owner == frontend])

    # ---- the two clocks ------------------------------------------------------------------------

    def plan(self, now: float) -> StepPlan | None:
        """The next micro-batch, or None if nothing can be computed now."""
        draft = Draft(Flight(self.num_steps, now), self.limits.max_num_batched_tokens)
        self._plan_decodes(draft)
        self._plan_chunks(draft)
        if not draft.preempted:
            self._admit_waiting(draft)
        flight = draft.flight
        if not flight.rows:
            return None
        plan = StepPlan(
            epoch=self._epoch,
            step=self.num_steps,
            slots=column([sequence.slot for sequence in flight.rows if sequence is not None]),
            counts=column(flight.counts if sum(flight.counts) > len(flight.counts) else ()),
            page_slots=column(draft.page_slots),
            new_pages=column(draft.new_pages),
            admits=draft.admits,
            released=column(self._released),
        )
        self._released.clear()
        self.flights.append(flight)
        self.num_steps += 1
        return plan

    def commit(self, result: StepResult) -> dict[bytes, Tokens]:
        """Take the oldest plan's result: new tokens and endings, by frontend.

        The late result of a worker that was lost is passed over.
        """
        if result.epoch != self._epoch:
            return {}
        if not self.flights or self.flights[0].step != result.step:
            raise ValueError(f"a result of step {result.step} came, which is not the oldest plan in flight")
        flight = self.flights.popleft()
        if len(result.tokens) != sum(flight.samples):
            raise ValueError(
                f"step {result.step} brought {len(result.tokens)} tokens, expected {sum(flight.samples)}"
            )
        messages: dict[bytes, Tokens] = {}
        tokens = iter(result.tokens)
        for sequence, count, samples in zip(flight.rows, flight.counts, flight.samples, strict=True):
            token = next(tokens) if samples else None
            if sequence is None:
                continue
            sequence.num_committed_tokens += count
            if token is not None:
                self._append(sequence, token, messages)
        return messages

    # ---- the worker ----------------------------------------------------------------------------

    def worker_ready(self, worker: WorkerReady) -> None:
        """A worker with empty pages and slots serves from now on."""
        self._epoch = worker.epoch
        self.pool = PagePool(worker.num_pages)
        self.page_size = worker.page_size
        self.max_model_len = worker.max_model_len
        self.num_slots = min(worker.num_slots, self.limits.max_num_seqs)
        self._free_slots = list(range(self.num_slots - 1, -1, -1))
        self._released: list[int] = []

    def worker_lost(self) -> None:
        """Every running sequence waits again, to be computed anew from its tokens by the next worker."""
        self.flights.clear()
        for sequence in self.running:
            sequence.leave_slot()
            insort(self.waiting, sequence, key=fcfs)
        self.running.clear()
        self.pool = PagePool(self.pool.num_pages)
        self.num_slots = 0  # so that nothing is planned meanwhile
        self._free_slots.clear()
        self._released.clear()

    # ---- what others may ask -------------------------------------------------------------------

    def stats(self, now: float) -> Stats:
        """The state now."""
        return Stats(
            num_running=len(self.running),
            num_waiting=len(self.waiting),
            num_pages=self.pool.num_pages,
            num_free_pages=self.pool.num_free_pages,
            num_slots=self.num_slots,
            num_free_slots=len(self._free_slots),
            num_plans_in_flight=len(self.flights),
            num_steps=self.num_steps,
            num_preemptions=self.num_preemptions,
            num_prompt_tokens=self.num_prompt_tokens,
            num_generated_tokens=self.num_generated_tokens,
            oldest_step_s=max(now - self.flights[0].planned_at, 0.0) if self.flights else 0.0,
        )

    def check(self) -> None:
        """Raise unless every slot, page and sequence is accounted for exactly once."""
        for sequence in [*self.waiting, *self.running]:
            sequence.check()
        assert all(sequence.slot == NO_SLOT for sequence in self.waiting)
        assert sorted([s.slot for s in self.running] + self._free_slots) == list(range(self.num_slots))
        assert self.waiting == sorted(self.waiting, key=fcfs)
        assert self.running == sorted(self.running, key=fcfs)
        listed = {id(sequence) for sequences in self._requests.values() for sequence in sequences}
        assert listed == {id(sequence) for sequence in [*self.waiting, *self.running]}
        self.pool.check(page for sequence in self.running for page in sequence.pages)
        for sequence in self.running:
            assert len(sequence.pages) >= self._num_pages_for(sequence.num_planned_tokens)
            in_flight = [
                (count, samples)
                for flight in self.flights
                for row, count, samples in zip(flight.rows, flight.counts, flight.samples, strict=True)
                if row is sequence
            ]
            assert sequence.num_pending_tokens == sum(samples for _, samples in in_flight)
            assert sequence.num_planned_tokens - sequence.num_committed_tokens == sum(c for c, _ in in_flight)

    # ---- inside --------------------------------------------------------------------------------

    def _refusal(self, frontend: bytes, request: Submit) -> tuple[RejectCode, str] | None:
        num_tokens = len(request.prompt)
        if (frontend, request.request_id) in self._requests:
            return RejectCode.INVALID, f"request {request.request_id} is already being served"
        if num_tokens >= self.max_model_len:
            return (
                RejectCode.TOO_LONG,
                f"the prompt has {num_tokens} tokens, but at most {self.max_model_len - 1} "
                "leave room for one more in the context",
            )
        max_len = min(num_tokens + request.max_tokens, self.max_model_len)
        if self._num_pages_for(max_len - 1) > self.pool.num_pages:
            return (
                RejectCode.TOO_LONG,
                f"prompt and max_tokens make {max_len} tokens, but the KV cache holds "
                f"{self.pool.num_pages * self.page_size}: ask for fewer tokens",
            )
        if len(self.waiting) + request.n > self.limits.max_num_queued_reqs:
            return (
                RejectCode.OVERLOADED,
                f"{len(self.waiting)} requests wait already, at most {self.limits.max_num_queued_reqs} may: "
                "try again later",
            )
        for generated in request.generated:
            if num_tokens + len(generated) >= max_len:
                return RejectCode.INVALID, "the request is handed in again, but has nothing left to generate"
        return None

    def _sequence(self, frontend: bytes, request: Submit, output: int) -> Sequence:
        # Each output draws its own random numbers: the odd constant (2**64 over the golden ratio)
        # spreads neighbouring outputs over all seeds.
        seed = (request.sampling.seed + output * 0x9E3779B97F4A7C15) & INT64_MAX
        self._num_arrivals += 1
        return Sequence(
            frontend=frontend,
            request_id=request.request_id,
            output=output,
            arrival=self._num_arrivals,
            num_prompt_tokens=len(request.prompt),
            max_len=min(len(request.prompt) + request.max_tokens, self.max_model_len),
            sampling=replace(request.sampling, seed=seed),
            stop_token_ids=frozenset(request.stop_token_ids),
            tokens=known_tokens(request.prompt, request.generated[output] if request.generated else ()),
        )

    def _plan_decodes(self, draft: Draft) -> None:
        """A row for every running sequence that lacks only its last token. Who finds no page takes
        those of the last in order, even its own."""
        flight = draft.flight
        for sequence in list(self.running):
            num_planned = sequence.num_planned_tokens
            num_tokens = len(sequence.tokens) + sequence.num_pending_tokens
            if num_tokens - num_planned > 1:
                draft.prompts.append(sequence)
                continue
            if num_tokens >= sequence.max_len or sequence.slot == NO_SLOT or len(flight.rows) == draft.budget:
                continue
            if num_planned == len(sequence.pages) * self.page_size and not self._add_page(sequence, draft):
                break  # it was the last in order: everybody behind it has made room before
            sequence.num_planned_tokens = num_planned + 1
            sequence.num_pending_tokens += 1
            flight.rows.append(sequence)
        flight.counts.extend([1] * len(flight.rows))
        flight.samples.extend([True] * len(flight.rows))
        draft.budget -= len(flight.rows)

    def _add_page(self, sequence: Sequence, draft: Draft) -> bool:
        """One more page for a running sequence; False if it had to leave for want of one."""
        while not self.pool.num_free_pages:
            victim = self.running[-1]
            self._preempt(victim)
            draft.preempted = True
            if victim is sequence:
                return False
        pages = self.pool.take(1)
        sequence.pages += pages
        draft.page_slots.append(sequence.slot)
        draft.new_pages += pages
        return True

    def _plan_chunks(self, draft: Draft) -> None:
        """The next chunk of every running prompt, in order, while the budget lasts."""
        for sequence in draft.prompts:
            if draft.budget and sequence.slot != NO_SLOT:
                self._add_chunk(sequence, draft)

    def _admit_waiting(self, draft: Draft) -> None:
        """Slots and pages for waiting sequences, in order: the first that finds no room ends it."""
        num_admitted = 0
        for sequence in self.waiting:
            need = self._num_pages_for(len(sequence.tokens))
            # Every running sequence will want its next page within page_size steps; without this
            # reserve a new prompt would take it, to be preempted soon after.
            reserve = len(self.running)
            if not draft.budget or not self._free_slots or self.pool.num_free_pages < need + reserve:
                break
            num_admitted += 1
            sequence.slot = self._free_slots.pop()
            sequence.pages = self.pool.take(need)
            insort(self.running, sequence, key=fcfs)
            draft.admits.append(
                Admit(
                    slot=sequence.slot,
                    tokens=sequence.tokens[:],
                    num_computed_tokens=0,
                    pages=column(sequence.pages),
                    sampling=sequence.sampling,
                )
            )
            self._add_chunk(sequence, draft)
        del self.waiting[:num_admitted]

    def _add_chunk(self, sequence: Sequence, draft: Draft) -> None:
        """A row for as many tokens of a prompt as the budget allows."""
        left = sequence.num_tokens_left
        count = min(left, draft.budget)
        sequence.num_planned_tokens += count
        sequence.num_pending_tokens += count == left
        draft.flight.add(sequence, count, samples=count == left)
        draft.budget -= count
        self.num_prompt_tokens += count

    def _append(self, sequence: Sequence, token: int, messages: dict[bytes, Tokens]) -> None:
        """One sampled token is on the host."""
        message = messages.get(sequence.frontend)
        if message is None:
            message = messages[sequence.frontend] = Tokens(column(), column(), column(), [])
        sequence.tokens.append(token)
        sequence.num_pending_tokens -= 1
        self.num_generated_tokens += 1
        reason = None
        if token in sequence.stop_token_ids:
            reason = FinishReason.STOP
        elif len(sequence.tokens) >= sequence.max_len:
            reason = FinishReason.LENGTH
        if reason is not None:
            message.finished.append(Finished(len(message.tokens), reason))
            self._end(sequence)
        message.request_ids.append(sequence.request_id)
        message.outputs.append(sequence.output)
        message.tokens.append(token)

    def _preempt(self, sequence: Sequence) -> None:
        """Take slot and pages away; the sequence waits and is computed anew from its tokens."""
        self._leave(sequence)
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        insort(self.waiting, sequence, key=fcfs)

    def _end(self, sequence: Sequence) -> None:
        """The sequence is over, wherever it is."""
        if sequence.slot == NO_SLOT:
            self.waiting.remove(sequence)
        else:
            self._leave(sequence)
        key = sequence.frontend, sequence.request_id
        self._requests[key].remove(sequence)
        if not self._requests[key]:
            del self._requests[key]

    def _leave(self, sequence: Sequence) -> None:
        """Out of the running ones: its rows in flight are struck, slot and pages free at once."""
        self.running.remove(sequence)
        for flight in self.flights:
            flight.strike(sequence)
        self._released.append(sequence.slot)
        self._free_slots.append(sequence.slot)
        self.pool.give_back(sequence.pages)
        sequence.leave_slot()

    def _num_pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)
