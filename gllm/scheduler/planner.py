"""Who gets which rows of the next step: running decodes first, then chunks of running prompts, then
new prompts, all under one budget of tokens.

It lets sequences in and preempts them, and moves their planned tokens. Knows no results, no requests
and nothing of the worker but what `Running` accounts for.
"""

from gllm.protocol.messages import Admit, PassedOver
from gllm.protocol.wire import column
from gllm.scheduler.cache import Fit
from gllm.scheduler.deadlines import Deadlines
from gllm.scheduler.flight import Draft, Flight
from gllm.scheduler.intake import Limits
from gllm.scheduler.policy import Load, Policy
from gllm.scheduler.running import Running
from gllm.scheduler.sequence import NO_SLOT, Sequence
from gllm.scheduler.waiting import Waiting


class Planner:
    """Makes drafts; of its own it has only the count by which decodes take turns."""

    def __init__(
        self, limits: Limits, policy: Policy, waiting: Waiting, running: Running, deadlines: Deadlines
    ) -> None:
        self._limits = limits
        self._policy = policy
        self._waiting = waiting
        self._running = running
        self._deadlines = deadlines
        self.num_turns = 0  # decode rows that were given in turn

    def draft(self, step: int, now: float) -> Draft:
        """All rows of this step; none if nothing can be computed now."""
        draft = Draft(Flight(step, now), self._limits.max_num_batched_tokens)
        self._make_way(draft)
        decodes, prompts = self._ready()
        load = self._load(len(decodes), prompts)
        draft.prompt_budget = self._policy.max_prompt_tokens(load)
        self._plan_decodes(decodes, self._policy.max_decodes(load), draft)
        self._plan_chunks(prompts, draft)
        self._admit_waiting(draft)
        return draft

    def _ready(self) -> tuple[list[Sequence], list[Sequence]]:
        """The running sequences that can have a row: those that lack only their last token, and
        prompts. Those that the plans in flight bring to their length limit are neither, nor those
        that wait for a mask."""
        decodes, prompts = [], []
        for sequence in self._running:
            if sequence.is_constrained and sequence.awaits_mask:
                continue
            num_tokens = len(sequence.tokens) + sequence.num_pending_tokens
            if num_tokens - sequence.num_planned_tokens > 1:
                prompts.append(sequence)
            elif num_tokens < sequence.max_len:
                decodes.append(sequence)
        return decodes, prompts

    def _load(self, num_decodes: int, prompts: list[Sequence]) -> Load:
        pool = self._running.cache.pool
        return Load(
            max_num_batched_tokens=self._limits.max_num_batched_tokens,
            max_plans_in_flight=self._limits.max_plans_in_flight,
            num_waiting_tokens=self._waiting.num_tokens + sum(prompt.num_tokens_left for prompt in prompts),
            num_decodes=num_decodes,
            num_pages=pool.num_pages,
            num_free_pages=pool.num_free_pages,
        )

    # ---- those that run ------------------------------------------------------------------------

    def _plan_decodes(self, decodes: list[Sequence], max_rows: int, draft: Draft) -> None:
        """A row for every decode. Who finds no page takes those of the last in order, even its own."""
        max_rows = min(max_rows, draft.budget)
        if max_rows < len(decodes):
            decodes = self._take_turns(decodes, max_rows)
        page_size, rows = self._running.cache.page_size, draft.flight.rows
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
            self.num_turns += 1
            sequence.last_turn = self.num_turns
        return sorted(chosen, key=self._policy.order)

    def _add_page(self, sequence: Sequence, draft: Draft) -> bool:
        """One more page for a running sequence; False if it had to leave for want of one."""
        cache = self._running.cache
        while not cache.pool.num_free_pages:
            victim = self._running.last  # never one with a row in this draft: rows are added in order
            self._preempt(victim, draft)
            draft.preempted = True
            if victim is sequence:
                return False
        draft.page_slots.append(sequence.slot)
        draft.new_pages.append(cache.grow(sequence))
        return True

    def _plan_chunks(self, prompts: list[Sequence], draft: Draft) -> None:
        """The next chunk of every running prompt, in order, while the budget lasts."""
        for sequence in prompts:
            if sequence.slot != NO_SLOT and min(draft.budget, draft.prompt_budget) > 0:
                self._add_chunk(sequence, draft)

    def _add_chunk(self, sequence: Sequence, draft: Draft) -> None:
        """A row for as many tokens of a prompt as the budgets allow."""
        left = sequence.num_tokens_left
        count = min(left, draft.budget, draft.prompt_budget)
        sequence.num_planned_tokens += count
        sequence.num_pending_tokens += count == left
        if sequence.is_constrained and count == left:
            draft.add_mask(sequence)
        self._running.cache.name_pages(sequence, sequence.num_planned_tokens)
        draft.flight.add(sequence, count, samples=count == left)
        draft.budget -= count
        draft.prompt_budget -= count
        draft.num_prompt_tokens += count

    # ---- those that wait -----------------------------------------------------------------------

    def _make_way(self, draft: Draft) -> None:
        """Preempt those whom the first in the queue outranks, if that gives it room."""
        running, cache = self._running, self._running.cache
        first = self._waiting.first() if self._waiting and running else None
        if first is None:
            return
        outranked = [sequence for sequence in running if self._policy.outranks(first, sequence)]
        if not outranked:
            return
        fit = cache.fit(first)
        if sum(len(s.pages) for s in outranked) + cache.pool.num_free_pages < fit.num_taken_pages:
            return
        while outranked and running.lacks(fit) is not None:
            self._preempt(outranked.pop(), draft)
            fit = cache.fit(first)

    def _preempt(self, sequence: Sequence, draft: Draft) -> None:
        """Take slot and pages away; the sequence waits and is computed anew from its tokens."""
        self._running.leave(sequence)
        sequence.num_preemptions += 1
        draft.num_preemptions += 1
        self._waiting.add(sequence)

    def _admit_waiting(self, draft: Draft) -> None:
        """Slots and pages for waiting sequences, in order: the first that finds no room ends it."""
        while self._waiting:
            sequence = self._waiting.first()
            if sequence is None:
                self._waiting.pass_over(None)
                return
            # Its fit last: to find a long prompt's pages takes longer than all else of a decode step.
            lack = self._draft_lacks(draft)
            if lack is None:
                fit = self._running.cache.fit(sequence)
                lack = self._running.lacks(fit)
            if lack is not None:
                self._waiting.pass_over(lack)
                return
            self._waiting.remove(sequence)
            self._admit(sequence, fit, draft)

    def _draft_lacks(self, draft: Draft) -> PassedOver | None:
        """What no waiting sequence can have in this draft, whatever its tokens are."""
        running = self._running
        if not running.num_free_slots:
            return PassedOver.NO_SLOT
        if min(draft.budget, draft.prompt_budget) <= 0:
            return PassedOver.NO_TOKENS
        # Everybody takes one page at least, for the last token of a prompt is never shared.
        if draft.preempted or running.cache.pool.num_free_pages < 1 + running.num_reserved_pages:
            return PassedOver.NO_PAGES
        return None

    def _admit(self, sequence: Sequence, fit: Fit, draft: Draft) -> None:
        self._running.enter(sequence, fit)
        num_hit_tokens = sequence.num_planned_tokens
        draft.num_prefix_query_tokens += len(sequence.tokens)
        draft.num_prefix_hit_tokens += num_hit_tokens
        if sequence.began_at is None:
            sequence.began_at = draft.flight.planned_at
            self._deadlines.drop((sequence.frontend, sequence.request_id))
            sequence.num_cached_tokens = num_hit_tokens
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
