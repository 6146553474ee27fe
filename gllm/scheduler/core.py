"""The scheduler's decisions: pure, without clock, socket, randomness or tensors.

    submit, mask, cancel  ->  waiting  --plan-->  running  --commit-->  tokens, finished

`plan` builds one micro-batch: running decodes first, then chunks of running prompts, then new
prompts, all under one budget of tokens. Several plans may be in flight; a sequence may be in all
of them, since the worker itself keeps the token that the next plan needs.

Stream order is the lock: the worker runs plans in the order they were made. Hence slots and pages
of a sequence may be given away while one of its rows is still in flight: whoever gets them writes
later. A row whose sequence has left is struck out and its token dropped. Such a row writes only
behind the sequence's committed tokens, hence never into a page that others can find.

Which tokens a grammar allows depends on the token before. So a constrained sequence waits for a
mask with each token: it has one row in flight at most, and the others fill the step.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Sequenced

from gllm.protocol.messages import (
    Admit,
    Cached,
    Finished,
    FinishReason,
    Mask,
    PassedOver,
    RejectCode,
    Rejected,
    Stats,
    StepPlan,
    StepResult,
    Submit,
    Tokens,
    WorkerReady,
    mask_bytes,
)
from gllm.protocol.wire import column
from gllm.scheduler.cache import Fit, KvCache
from gllm.scheduler.deadlines import Deadlines
from gllm.scheduler.flight import Draft, Flight
from gllm.scheduler.growth import Growth
from gllm.scheduler.intake import Limits, refusal, sequences_of
from gllm.scheduler.logprobs import deliver_logprobs, no_tokens
from gllm.scheduler.policy import Load, Policy
from gllm.scheduler.sequence import NO_SLOT, Sequence
from gllm.scheduler.waiting import Waiting


class Scheduler:
    """Sequences, their slots and pages, and the plans in flight."""

    def __init__(self, limits: Limits, policy: Policy, worker: WorkerReady) -> None:
        self.limits = limits
        self.policy = policy
        self.waiting = Waiting(policy)
        self.running: list[Sequence] = []  # in the policy's order
        self.flights: deque[Flight] = deque()
        self.num_steps = 0
        self.num_preemptions = 0
        self.num_prompt_tokens = 0
        self.num_generated_tokens = 0
        self.num_prefix_query_tokens = 0
        self.num_prefix_hit_tokens = 0
        self._growth = Growth()
        self._deadlines = Deadlines()
        self._requests: dict[tuple[bytes, int], list[Sequence]] = {}
        self._num_arrivals = 0
        self._num_turns = 0  # decode rows that were given in turn
        self.worker_ready(worker)

    # ---- requests ------------------------------------------------------------------------------

    def submit(self, frontend: bytes, request: Submit, now: float) -> Rejected | None:
        """Queue every output of `request`, or say why not."""
        key = frontend, request.request_id
        if key in self._requests:
            sentence = f"request {request.request_id} is already being served"
            return Rejected(request.request_id, RejectCode.INVALID, sentence)
        refused = refusal(request, self.limits, self.max_model_len, self.cache, self.waiting)
        if refused is not None:
            return Rejected(request.request_id, *refused)
        sequences = sequences_of(frontend, request, self.max_model_len, self.cache, self._num_arrivals, now)
        self._num_arrivals += len(sequences)
        self._requests[key] = sequences
        for sequence in sequences:
            self.waiting.add(sequence)
        if request.timeout_s:
            self._deadlines.add(key, now + request.timeout_s)
        return None

    def cancel(self, frontend: bytes, request_ids: Iterable[int], outputs: Sequenced[int] = ()) -> None:
        """End these requests without another word, or of each the output that `outputs` names; unknown
        ones have ended already."""
        for index, request_id in enumerate(request_ids):
            for sequence in list(self._requests.get((frontend, request_id), ())):
                if not outputs or sequence.output == outputs[index]:
                    self._end(sequence)

    def mask(self, frontend: bytes, mask: Mask) -> Rejected | None:
        """What the next token of a constrained output may be; one that comes too late is passed over.

        A mask of another vocabulary ends the request.
        """
        listed = self._requests.get((frontend, mask.request_id), ())
        sequence = next((s for s in listed if s.output == mask.output and s.is_constrained), None)
        if sequence is None or len(sequence.tokens) - sequence.num_prompt_tokens != mask.num_generated:
            return None
        if len(mask.bits) != mask_bytes(self.vocab_size):
            self.cancel(frontend, [mask.request_id])
            sentence = (
                f"a mask of {len(mask.bits)} bytes came, but {self.vocab_size} tokens take "
                f"{mask_bytes(self.vocab_size)}"
            )
            return Rejected(mask.request_id, RejectCode.INVALID, sentence)
        sequence.mask = mask.bits
        return None

    def frontend_lost(self, frontend: bytes) -> None:
        """End every request of a frontend that is gone."""
        self.cancel(frontend, [request_id for owner, request_id in self._requests if owner == frontend])

    def expire(self, now: float) -> list[tuple[bytes, Rejected]]:
        """End the requests whose deadline passed before anything of them began, by frontend."""
        expired = []
        for frontend, request_id in self._deadlines.passed(now):
            waited = now - self._requests[frontend, request_id][0].arrived_at
            self.cancel(frontend, [request_id])
            sentence = f"the request had waited {waited:.1f} s when its deadline passed"
            expired.append((frontend, Rejected(request_id, RejectCode.TIMEOUT, sentence)))
        return expired

    def reset_prefix_cache(self) -> int:
        """Let nobody find what the pages hold now; how many pages could be found before."""
        return self.cache.pool.forget_all()

    # ---- the two clocks ------------------------------------------------------------------------

    def plan(self, now: float) -> StepPlan | None:
        """The next micro-batch, or None if nothing can be computed now."""
        self._make_way()
        decodes, prompts = self._ready()
        load = self._load(len(decodes), prompts)
        budget = self.limits.max_num_batched_tokens
        draft = Draft(Flight(self.num_steps, now), budget, self.policy.max_prompt_tokens(load))
        self._plan_decodes(decodes, self.policy.max_decodes(load), draft)
        self._plan_chunks(prompts, draft)
        self._admit_waiting(draft, now)
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
            masked_rows=column(draft.masked_rows),
            masks=b"".join(draft.masks),
        )
        self._released.clear()
        self.flights.append(flight)
        self.num_steps += 1
        return plan

    def commit(self, result: StepResult, now: float) -> dict[bytes, Tokens]:
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
        page_size = self.cache.page_size
        tokens = iter(result.tokens)
        # The hot loop: what happens to one token in thousands is in `_began` and `_finish`.
        for sequence, count, samples in zip(flight.rows, flight.counts, flight.samples, strict=True):
            token = next(tokens) if samples else None
            if sequence is None:
                continue
            num_committed = sequence.num_committed_tokens = sequence.num_committed_tokens + count
            if not num_committed % page_size:
                self.cache.name_pages(sequence, num_committed)
            if token is None:
                continue
            message = messages.get(sequence.frontend)
            if message is None:
                message = messages[sequence.frontend] = no_tokens()
            message.request_ids.append(sequence.request_id)
            message.outputs.append(sequence.output)
            message.tokens.append(token)
            known = sequence.tokens
            known.append(token)
            sequence.num_pending_tokens -= 1
            if sequence.is_constrained:
                sequence.mask = b""
            if sequence.first_token_at is None:
                self._began(sequence, message, now)
            if token in sequence.stop_token_ids:
                self._finish(sequence, FinishReason.STOP, message, now)
            elif len(known) >= sequence.max_len:
                self._finish(sequence, FinishReason.LENGTH, message, now)
        if result.logprobs is not None or result.prompt_logprobs:
            deliver_logprobs(result, flight, messages)
        num_tokens = sum(len(message.tokens) for message in messages.values())
        self.num_generated_tokens += num_tokens
        self._growth.num_allowed_tokens -= num_tokens
        return messages

    # ---- the worker ----------------------------------------------------------------------------

    def worker_ready(self, worker: WorkerReady) -> None:
        """A worker with empty pages and slots serves from now on."""
        self._epoch = worker.epoch
        self.cache = KvCache(
            worker.num_pages, worker.page_size, self.limits.share_prefixes, worker.length_bound
        )
        self.max_model_len = worker.max_model_len
        self.vocab_size = worker.vocab_size
        self.num_slots = min(worker.num_slots, self.limits.max_num_seqs)
        self._free_slots = list(range(self.num_slots - 1, -1, -1))
        self._released: list[int] = []

    def worker_lost(self) -> None:
        """Every running sequence waits again, to be computed anew from its tokens by the next worker."""
        self.flights.clear()
        for sequence in self.running:
            sequence.leave_slot()
            self.waiting.add(sequence)
        self.running.clear()
        self._growth.num_allowed_tokens = 0
        self.cache = self.cache.emptied()
        self.num_slots = 0  # so that nothing is planned meanwhile
        self._free_slots.clear()
        self._released.clear()

    # ---- what others may ask -------------------------------------------------------------------

    def stats(self, now: float) -> Stats:
        """The state now."""
        pool = self.cache.pool
        return Stats(
            num_running=len(self.running),
            num_waiting=len(self.waiting),
            num_waiting_tokens=self.waiting.num_tokens,
            num_pages=pool.num_pages,
            num_free_pages=pool.num_free_pages,
            num_cached_pages=pool.num_cached_pages,
            num_slots=self.num_slots,
            num_free_slots=len(self._free_slots),
            num_plans_in_flight=len(self.flights),
            num_steps=self.num_steps,
            num_preemptions=self.num_preemptions,
            num_prompt_tokens=self.num_prompt_tokens,
            num_generated_tokens=self.num_generated_tokens,
            num_prefix_query_tokens=self.num_prefix_query_tokens,
            num_prefix_hit_tokens=self.num_prefix_hit_tokens,
            passed_over=list(self.waiting.passed_over),
            oldest_step_s=max(now - self.flights[0].planned_at, 0.0) if self.flights else 0.0,
        )

    @property
    def num_reserved_pages(self) -> int:
        """Pages kept from the waiting for the growth of those that run; none by an empty engine.

        Without them a new prompt would take their next pages, to be preempted soon after.
        """
        expected = self.cache.num_pages_for(self._growth.num_expected_tokens)
        return max(expected, len(self.running)) if self.running else 0

    def check(self) -> None:
        """Raise unless every slot, page and sequence is accounted for exactly once."""
        self.waiting.check()
        assert self.running == sorted(self.running, key=self.policy.order)
        assert sorted([s.slot for s in self.running] + self._free_slots) == list(range(self.num_slots))
        listed = {id(sequence) for sequences in self._requests.values() for sequence in sequences}
        assert listed == {id(sequence) for sequence in [*self.waiting, *self.running]}
        allowed = sum(sequence.max_len - len(sequence.tokens) for sequence in self.running)
        assert self._growth.num_allowed_tokens == allowed
        self.cache.pool.check(page for sequence in self.running for page in sequence.pages)
        for sequence in [*self.waiting, *self.running]:
            sequence.check()
            in_flight = [flight.tokens_of(sequence) for flight in self.flights]
            assert sequence.num_pending_tokens == sum(samples for _, samples in in_flight)
            assert sequence.num_planned_tokens - sequence.num_committed_tokens == sum(c for c, _ in in_flight)
            assert len(sequence.pages) >= self.cache.num_pages_for(sequence.num_planned_tokens)
            if sequence.is_constrained and sequence.slot != NO_SLOT:
                assert sequence.mask or sequence.num_tokens_left == 1

    # ---- making a plan -------------------------------------------------------------------------

    def _ready(self) -> tuple[list[Sequence], list[Sequence]]:
        """The running sequences that can have a row: those that lack only their last token, and
        prompts. Those that the plans in flight bring to their length limit are neither, nor those
        that wait for a mask."""
        decodes, prompts = [], []
        for sequence in self.running:
            if sequence.is_constrained and sequence.awaits_mask:
                continue
            num_tokens = len(sequence.tokens) + sequence.num_pending_tokens
            if num_tokens - sequence.num_planned_tokens > 1:
                prompts.append(sequence)
            elif num_tokens < sequence.max_len:
                decodes.append(sequence)
        return decodes, prompts

    def _load(self, num_decodes: int, prompts: list[Sequence]) -> Load:
        pool = self.cache.pool
        return Load(
            max_num_batched_tokens=self.limits.max_num_batched_tokens,
            max_plans_in_flight=self.limits.max_plans_in_flight,
            num_waiting_tokens=self.waiting.num_tokens + sum(prompt.num_tokens_left for prompt in prompts),
            num_decodes=num_decodes,
            num_pages=pool.num_pages,
            num_free_pages=pool.num_free_pages,
        )

    def _make_way(self) -> None:
        """Preempt those whom the first in the queue outranks, if that gives it room."""
        first = self.waiting.first() if self.waiting and self.running else None
        if first is None:
            return
        outranked = [sequence for sequence in self.running if self.policy.outranks(first, sequence)]
        if not outranked:
            return
        fit = self.cache.fit(first)
        if sum(len(s.pages) for s in outranked) + self.cache.pool.num_free_pages < fit.num_taken_pages:
            return
        while outranked and self._lacks(fit) is not None:
            self._preempt(outranked.pop())
            fit = self.cache.fit(first)

    def _plan_decodes(self, decodes: list[Sequence], max_rows: int, draft: Draft) -> None:
        """A row for every decode. Who finds no page takes those of the last in order, even its own."""
        max_rows = min(max_rows, draft.budget)
        if max_rows < len(decodes):
            decodes = self._take_turns(decodes, max_rows)
        page_size, rows = self.cache.page_size, draft.flight.rows
        for sequence in decodes:
            if sequence.slot == NO_SLOT:
                continue  # it has made room meanwhile
            num_planned = sequence.num_planned_tokens
            if num_planned == len(sequence.pages) * page_size and not self._add_page(sequence, draft):
                continue
            sequence.num_planned_tokens = num_planned + 1
            sequence.num_pending_tokens += 1
            if sequence.is_constrained:
                draft.add_mask(sequence)
            rows.append(sequence)
        draft.flight.counts.extend([1] * len(rows))
        draft.flight.samples.extend([True] * len(rows))
        draft.budget -= len(rows)

    def _take_turns(self, decodes: list[Sequence], max_rows: int) -> list[Sequence]:
        """Those who have no row in flight and had one longest ago, so that all come round equally."""
        chosen = sorted(decodes, key=lambda s: (s.num_pending_tokens, s.last_turn))[:max_rows]
        for sequence in chosen:
            self._num_turns += 1
            sequence.last_turn = self._num_turns
        return sorted(chosen, key=self.policy.order)

    def _add_page(self, sequence: Sequence, draft: Draft) -> bool:
        """One more page for a running sequence; False if it had to leave for want of one."""
        while not self.cache.pool.num_free_pages:
            victim = self.running[-1]  # never one with a row in this draft: rows are added in order
            self._preempt(victim)
            draft.preempted = True
            if victim is sequence:
                return False
        draft.page_slots.append(sequence.slot)
        draft.new_pages.append(self.cache.grow(sequence))
        return True

    def _plan_chunks(self, prompts: list[Sequence], draft: Draft) -> None:
        """The next chunk of every running prompt, in order, while the budget lasts."""
        for sequence in prompts:
            if sequence.slot != NO_SLOT and min(draft.budget, draft.prompt_budget) > 0:
                self._add_chunk(sequence, draft)

    def _admit_waiting(self, draft: Draft, now: float) -> None:
        """Slots and pages for waiting sequences, in order: the first that finds no room ends it."""
        while self.waiting:
            sequence = self.waiting.first()
            if sequence is None:
                self.waiting.pass_over(None)
                return
            # Its fit last: to find a long prompt's pages takes longer than all else of a decode step.
            lack = self._draft_lacks(draft)
            if lack is None:
                fit = self.cache.fit(sequence)
                lack = self._lacks(fit)
            if lack is not None:
                self.waiting.pass_over(lack)
                return
            self.waiting.remove(sequence)
            self._admit(sequence, fit, draft, now)

    def _draft_lacks(self, draft: Draft) -> PassedOver | None:
        """What no waiting sequence can have in this draft, whatever its tokens are."""
        if not self._free_slots:
            return PassedOver.NO_SLOT
        if min(draft.budget, draft.prompt_budget) <= 0:
            return PassedOver.NO_TOKENS
        # Everybody takes one page at least, for the last token of a prompt is never shared.
        if draft.preempted or self.cache.pool.num_free_pages < 1 + self.num_reserved_pages:
            return PassedOver.NO_PAGES
        return None

    def _lacks(self, fit: Fit) -> PassedOver | None:
        """What a waiting sequence that fits so still lacks to be admitted."""
        if not self._free_slots:
            return PassedOver.NO_SLOT
        if self.cache.pool.num_free_pages < fit.num_taken_pages + self.num_reserved_pages:
            return PassedOver.NO_PAGES
        return None

    def _admit(self, sequence: Sequence, fit: Fit, draft: Draft, now: float) -> None:
        self._growth.num_allowed_tokens += sequence.max_len - len(sequence.tokens)
        sequence.slot = self._free_slots.pop()
        self.cache.enter(sequence, fit)
        num_hit_tokens = sequence.num_planned_tokens
        self.num_prefix_query_tokens += len(sequence.tokens)
        self.num_prefix_hit_tokens += num_hit_tokens
        if sequence.began_at is None:
            sequence.began_at = now
            self._deadlines.drop((sequence.frontend, sequence.request_id))
            sequence.num_cached_tokens = num_hit_tokens
        insort(self.running, sequence, key=self.policy.order)
        draft.admits.append(
            Admit(
                slot=sequence.slot,
                tokens=sequence.tokens[:],
                num_prompt_tokens=sequence.num_prompt_tokens,
                num_computed_tokens=num_hit_tokens,
                pages=column(sequence.pages),
                sampling=sequence.sampling,
            )
        )
        self._add_chunk(sequence, draft)

    def _add_chunk(self, sequence: Sequence, draft: Draft) -> None:
        """A row for as many tokens of a prompt as the budgets allow."""
        left = sequence.num_tokens_left
        count = min(left, draft.budget, draft.prompt_budget)
        sequence.num_planned_tokens += count
        sequence.num_pending_tokens += count == left
        if sequence.is_constrained and count == left:
            draft.add_mask(sequence)
        self.cache.name_pages(sequence, sequence.num_planned_tokens)
        draft.flight.add(sequence, count, samples=count == left)
        draft.budget -= count
        draft.prompt_budget -= count
        self.num_prompt_tokens += count

    # ---- endings -------------------------------------------------------------------------------

    def _began(self, sequence: Sequence, message: Tokens, now: float) -> None:
        """The last row of `message` is the sequence's first token."""
        sequence.first_token_at = now
        if sequence.num_cached_tokens:
            message.cached.append(Cached(len(message.tokens) - 1, sequence.num_cached_tokens))

    def _finish(self, sequence: Sequence, reason: FinishReason, message: Tokens, now: float) -> None:
        """The last row of `message` is the sequence's last token."""
        num_prompt = sequence.num_prompt_tokens
        self._growth.observe(len(sequence.tokens) - num_prompt, sequence.max_len - num_prompt)
        message.finished.append(_finished(len(message.tokens) - 1, sequence, reason, now))
        self._end(sequence)

    def _preempt(self, sequence: Sequence) -> None:
        """Take slot and pages away; the sequence waits and is computed anew from its tokens."""
        self._leave(sequence)
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.add(sequence)

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
            self._deadlines.drop(key)

    def _leave(self, sequence: Sequence) -> None:
        """Out of the running ones: its rows in flight are struck, slot and pages free at once."""
        self.running.remove(sequence)
        for flight in self.flights:
            flight.strike(sequence)
        self._growth.num_allowed_tokens -= sequence.max_len - len(sequence.tokens)
        self._released.append(sequence.slot)
        self._free_slots.append(sequence.slot)
        self.cache.leave(sequence)
        sequence.leave_slot()


def _finished(row: int, sequence: Sequence, reason: FinishReason, now: float) -> Finished:
    """How the life of a sequence went that ends now."""
    arrived, began, first = sequence.arrived_at, sequence.began_at, sequence.first_token_at
    assert began is not None
    assert first is not None
    return Finished(
        row=row,
        reason=reason,
        num_preemptions=sequence.num_preemptions,
        queue_s=max(began - arrived, 0.0),
        prefill_s=max(first - began, 0.0),
        decode_s=max(now - first, 0.0),
    )
