"""The scheduler's decisions: pure, without clock, socket, randomness or tensors.

    submit, mask, cancel  ->  waiting  --plan-->  running  --commit-->  tokens, finished

`plan` asks the planner for one micro-batch. Several plans may be in flight; a sequence may be in all
of them, since the worker itself keeps the token that the next plan needs.

Stream order is the lock: the worker runs plans in the order they were made. Hence slots and pages
of a sequence may be given away while one of its rows is still in flight: whoever gets them writes
later. A row whose sequence has left is struck out and its token dropped. Such a row writes only
behind the sequence's committed tokens, hence never into a page that others can find.

Which tokens a grammar allows depends on the token before. So a constrained sequence waits for a
mask with each token: it has one row in flight at most, and the others fill the step.
"""

from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Sequenced

from gllm.protocol.messages import (
    Cached,
    FinishReason,
    Mask,
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
from gllm.scheduler.cache import KvCache
from gllm.scheduler.deadlines import Deadlines
from gllm.scheduler.flight import Flight
from gllm.scheduler.intake import Limits, refusal, sequences_of
from gllm.scheduler.logprobs import deliver_logprobs, no_tokens
from gllm.scheduler.planner import Planner
from gllm.scheduler.policy import Policy
from gllm.scheduler.running import Running
from gllm.scheduler.sequence import NO_SLOT, Sequence
from gllm.scheduler.waiting import Waiting


class Scheduler:
    """Requests and their sequences, waiting or running, and the plans in flight."""

    def __init__(self, limits: Limits, policy: Policy, worker: WorkerReady) -> None:
        self.limits = limits
        self.policy = policy
        self.worker = worker
        self.flights: deque[Flight] = deque()
        self.waiting = Waiting(policy)
        self.running = Running(policy, limits, worker, self.flights)
        self.num_steps = 0
        self.num_preemptions = 0
        self.num_prompt_tokens = 0
        self.num_generated_tokens = 0
        self.num_prefix_query_tokens = 0
        self.num_prefix_hit_tokens = 0
        self._deadlines = Deadlines()
        self._planner = Planner(limits, policy, self.waiting, self.running, self._deadlines)
        self._requests: dict[tuple[bytes, int], list[Sequence]] = {}
        self._num_arrivals = 0

    @property
    def cache(self) -> KvCache:
        """The pages of the worker that serves now."""
        return self.running.cache

    # ---- requests ------------------------------------------------------------------------------

    def submit(self, frontend: bytes, request: Submit, now: float) -> Rejected | None:
        """Queue every output of `request`, or say why not."""
        key = frontend, request.request_id
        if key in self._requests:
            sentence = f"request {request.request_id} is already being served"
            return Rejected(request.request_id, RejectCode.INVALID, sentence)
        max_model_len = self.worker.max_model_len
        refused = refusal(request, self.limits, max_model_len, self.cache, self.waiting)
        if refused is not None:
            return Rejected(request.request_id, *refused)
        sequences = sequences_of(frontend, request, max_model_len, self.cache, self._num_arrivals, now)
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
        if len(mask.bits) != mask_bytes(self.worker.vocab_size):
            self.cancel(frontend, [mask.request_id])
            sentence = (
                f"a mask of {len(mask.bits)} bytes came, but {self.worker.vocab_size} tokens take "
                f"{mask_bytes(self.worker.vocab_size)}"
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
        draft = self._planner.draft(self.num_steps, now)
        self.num_preemptions += draft.num_preemptions
        self.num_prompt_tokens += draft.num_prompt_tokens
        self.num_prefix_query_tokens += draft.num_prefix_query_tokens
        self.num_prefix_hit_tokens += draft.num_prefix_hit_tokens
        if not draft.flight.rows:
            return None
        plan = draft.plan(self.worker.epoch, self.running.released)
        self.running.released.clear()
        self.flights.append(draft.flight)
        self.num_steps += 1
        return plan

    def commit(self, result: StepResult, now: float) -> dict[bytes, Tokens]:
        """Take the oldest plan's result: new tokens and endings, by frontend.

        The late result of a worker that was lost is passed over.
        """
        if result.epoch != self.worker.epoch:
            return {}
        if not self.flights or self.flights[0].step != result.step:
            raise ValueError(f"a result of step {result.step} came, which is not the oldest plan in flight")
        flight = self.flights.popleft()
        if len(result.tokens) != sum(flight.samples):
            raise ValueError(
                f"step {result.step} brought {len(result.tokens)} tokens, expected {sum(flight.samples)}"
            )
        messages: dict[bytes, Tokens] = {}
        cache = self.cache
        page_size = cache.page_size
        tokens = iter(result.tokens)
        # The hot loop: what happens to one token in thousands is in `_began` and `_finish`.
        for sequence, count, samples in zip(flight.rows, flight.counts, flight.samples, strict=True):
            token = next(tokens) if samples else None
            if sequence is None:
                continue
            num_committed = sequence.num_committed_tokens = sequence.num_committed_tokens + count
            if not num_committed % page_size:
                cache.name_pages(sequence, num_committed)
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
        self.running.growth.num_allowed_tokens -= num_tokens
        return messages

    # ---- the worker ----------------------------------------------------------------------------

    def worker_ready(self, worker: WorkerReady) -> None:
        """A worker with empty pages and slots serves from now on."""
        self.worker = worker
        self.running.worker_ready(worker)

    def worker_lost(self) -> None:
        """Every running sequence waits again, to be computed anew from its tokens by the next worker."""
        self.flights.clear()
        for sequence in self.running.worker_lost():
            self.waiting.add(sequence)

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
            num_slots=self.running.num_slots,
            num_free_slots=self.running.num_free_slots,
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

    def check(self) -> None:
        """Raise unless every slot, page and sequence is accounted for exactly once."""
        self.waiting.check()
        self.running.check()
        listed = {id(sequence) for sequences in self._requests.values() for sequence in sequences}
        assert listed == {id(sequence) for sequence in [*self.waiting, *self.running]}
        for sequence in [*self.waiting, *self.running]:
            sequence.check()
            in_flight = [flight.tokens_of(sequence) for flight in self.flights]
            assert sequence.num_pending_tokens == sum(samples for _, samples in in_flight)
            assert sequence.num_planned_tokens - sequence.num_committed_tokens == sum(c for c, _ in in_flight)
            if sequence.is_constrained and sequence.slot != NO_SLOT:
                assert sequence.mask or sequence.num_tokens_left == 1

    # ---- endings -------------------------------------------------------------------------------

    def _began(self, sequence: Sequence, message: Tokens, now: float) -> None:
        """The last row of `message` is the sequence's first token."""
        sequence.first_token_at = now
        if sequence.num_cached_tokens:
            message.cached.append(Cached(len(message.tokens) - 1, sequence.num_cached_tokens))

    def _finish(self, sequence: Sequence, reason: FinishReason, message: Tokens, now: float) -> None:
        """The last row of `message` is the sequence's last token."""
        num_prompt = sequence.num_prompt_tokens
        self.running.growth.observe(len(sequence.tokens) - num_prompt, sequence.max_len - num_prompt)
        message.finished.append(sequence.finished(len(message.tokens) - 1, reason, now))
        self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        """The sequence is over, wherever it is."""
        if sequence.slot == NO_SLOT:
            self.waiting.remove(sequence)
        else:
            self.running.leave(sequence)
        key = sequence.frontend, sequence.request_id
        self._requests[key].remove(sequence)
        if not self._requests[key]:
            del self._requests[key]
            self._deadlines.drop(key)
