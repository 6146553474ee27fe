"""The requests of a recording, served by a core with any setting and a worker that is a cost model.

They come at their recorded times and end where they ended in the recording:

- an output that ended by itself gets the recorded tokens, so it ends by itself after as many;
- a request that was cut short (cancelled, or open when the recording ended) after some tokens is
  cancelled after as many, one that was cancelled before any token at its recorded time;
- of the others (rejected, expired, never begun) nobody knows the length: they get the typical one.

Knows no file and no clock: time jumps from one event to the next.
"""

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop
from statistics import median_low

from gllm.protocol.messages import Mask, StepResult, Tokens, WorkerReady, mask_bytes
from gllm.protocol.wire import column
from gllm.scheduler.core import Scheduler
from gllm.scheduler.intake import Limits
from gllm.scheduler.policy import Policy
from gllm.steps.cost import FitError, Fitted
from gllm.steps.shape import StepShape
from gllm.what_if.history import Case, History

VOCAB_SIZE = 1  # tokens come from scripts, so that a mask need say nothing


@dataclass(frozen=True, slots=True)
class Setting:
    """What the scheduler of a deployment is given."""

    limits: Limits
    policy: Policy
    num_pages: int
    page_size: int
    max_model_len: int
    length_bound: int


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of everything that takes time.

    Machines stall now and then: step number i is as much off its cost as it was in the recording.
    """

    step: Fitted
    error: FitError  # how far that is from the recorded steps
    deviations: Sequence[float]  # of each recorded step from its cost
    shortest: float  # no step takes less
    to_worker: float  # from the moment of planning to the worker's work on it, if it waits for it
    between: float  # from one step to the next, if that was there
    to_scheduler: float  # from the end of a step until the scheduler has its result
    to_mask: float  # from a token of a constrained output until the scheduler has the next one's mask

    def seconds(self, step: int, shape: StepShape) -> float:
        """How long step number `step` takes."""
        deviation = self.deviations[step % len(self.deviations)]
        return max(self.step.seconds(shape) + deviation, self.shortest)


class Simulation:
    """One run; request number i of it is case number i."""

    def __init__(self, cases: Sequence[Case], setting: Setting, costs: Costs, now: float) -> None:
        self.now = now
        self._cases = cases
        self._costs = costs
        self._depth = setting.limits.max_plans_in_flight
        worker = WorkerReady(
            epoch=1,
            num_pages=setting.num_pages,
            page_size=setting.page_size,
            num_slots=setting.limits.max_num_seqs,
            max_num_batched_tokens=setting.limits.max_num_batched_tokens,
            max_model_len=setting.max_model_len,
            vocab_size=VOCAB_SIZE,
            length_bound=setting.length_bound,
        )
        self._core = Scheduler(setting.limits, setting.policy, worker)
        self._history = History(self._core, now)
        self._scripts = [_script(case) for case in cases]
        self._fillers = [_filler(case) for case in cases]
        typical = _typical_length(cases)
        self._cuts = {i: cut for i, case in enumerate(cases) if (cut := _cut(case, typical)) is not None}
        # (time, case, whether it is cancelled then)
        self._moments = [(case.submitted_at, i, False) for i, case in enumerate(cases)]
        self._moments += [
            (case.cancelled_at, i, True)
            for i, case in enumerate(cases)
            if case.cancelled_at is not None and i not in self._cuts
        ]
        heapify(self._moments)
        self._submitted: dict[int, Case] = {}  # as this run sees them
        self._results: deque[tuple[float, StepResult]] = deque()  # when the scheduler has them
        self._masks: deque[tuple[float, Mask]] = deque()  # when the scheduler has them
        self._worker_free_at = now

    def run(self) -> History:
        """All of it."""
        while True:
            self._take_requests()
            self._commit_finished_steps()
            self._take_masks()
            self._history.expired(self._core.expire(self.now), self.now)
            self._plan_ahead()
            moments = [
                moment for moment, *_ in (self._moments[:1] + [*self._results][:1] + [*self._masks][:1])
            ]
            if not moments:
                return self._history
            self.now = max(self.now, min(moments))

    def _take_requests(self) -> None:
        while self._moments and self._moments[0][0] <= self.now:
            _, number, is_cancelled = heappop(self._moments)
            if is_cancelled:
                self._cancel(number)
                continue
            case = self._cases[number]
            request = replace(case.request, request_id=number)
            rejected = self._core.submit(case.frontend, request, self.now)
            submitted = self._history.submitted(case.frontend, request, self.now, rejected)
            submitted.was_there = case.was_there
            self._submitted[number] = submitted
            if rejected is None and request.is_constrained:
                generated = request.generated or [column()] * request.n
                for output, tokens in enumerate(generated):
                    self._core.mask(case.frontend, _mask(number, output, len(tokens)))

    def _commit_finished_steps(self) -> None:
        while self._results and self._results[0][0] <= self.now:
            messages = self._core.commit(self._results.popleft()[1], self.now)
            self._history.committed(messages, self.now)
            self._expect_masks(messages)
            self._cut_short(messages)

    def _expect_masks(self, messages: dict[bytes, Tokens]) -> None:
        """The next masks of those that got a token come after a while; they come to an end unused."""
        for message in messages.values():
            for request_id, output in zip(message.request_ids, message.outputs, strict=True):
                case = self._submitted[request_id]
                if case.request.is_constrained:
                    before = case.request.generated[output] if case.request.generated else ()
                    num_generated = len(before) + len(case.outputs[output].tokens)
                    mask = _mask(request_id, output, num_generated)
                    self._masks.append((self.now + self._costs.to_mask, mask))

    def _take_masks(self) -> None:
        while self._masks and self._masks[0][0] <= self.now:
            mask = self._masks.popleft()[1]
            self._core.mask(self._cases[mask.request_id].frontend, mask)

    def _cut_short(self, messages: dict[bytes, Tokens]) -> None:
        """Cancel those that have now what they had when they were cut short in the recording."""
        for message in messages.values():
            for number in self._cuts.keys() & set(message.request_ids):
                outputs = self._submitted[number].outputs.values()
                if all(
                    output.ended_at is not None or len(output.tokens) >= length
                    for output, length in zip(outputs, self._cuts[number], strict=True)
                ):
                    self._cancel(number)

    def _cancel(self, number: int) -> None:
        frontend = self._cases[number].frontend
        self._core.cancel(frontend, [number])
        self._history.cancelled(frontend, [number], self.now)

    def _plan_ahead(self) -> None:
        while len(self._core.flights) < self._depth:
            plan = self._core.plan(self.now)
            if plan is None:
                return
            shape = self._history.planned(plan, self.now)
            start = max(self.now + self._costs.to_worker, self._worker_free_at + self._costs.between)
            self._worker_free_at = start + self._costs.seconds(plan.step, shape)
            result = StepResult(plan.epoch, plan.step, self._tokens(), 0, 0, 0)
            self._results.append((self._worker_free_at + self._costs.to_scheduler, result))

    def _tokens(self) -> "array[int]":
        """What the newest plan samples."""
        flight = self._core.flights[-1]
        tokens = column()
        for sequence, samples in zip(flight.rows, flight.samples, strict=True):
            if sequence is not None and samples:
                script = self._scripts[sequence.request_id][sequence.output]
                place = len(sequence.tokens) + sequence.num_pending_tokens - 1 - sequence.num_prompt_tokens
                filler = self._fillers[sequence.request_id]
                tokens.append(script[place] if place < len(script) else filler)
        return tokens


def _mask(number: int, output: int, num_generated: int) -> Mask:
    return Mask(number, output, num_generated, b"\1".ljust(mask_bytes(VOCAB_SIZE), b"\0"))


def _script(case: Case) -> list["array[int]"]:
    """The tokens of each output, those that were handed in first."""
    handed_in = case.request.generated or [column()] * len(case.outputs)
    return [before + output.tokens for before, output in zip(handed_in, case.outputs.values(), strict=True)]


def _filler(case: Case) -> int:
    """A token that ends nothing."""
    stops = set(case.request.stop_token_ids)
    return next(token for token in range(len(stops) + 1) if token not in stops)


def _typical_length(cases: Sequence[Case]) -> int | None:
    lengths = [len(o.tokens) for case in cases for o in case.outputs.values() if o.ended_at is not None]
    return median_low(lengths) if lengths else None


def _cut(case: Case, typical: int | None) -> list[int] | None:
    """After how many tokens of each output the request is cancelled; None if not for their number."""
    lengths = [len(output.tokens) for output in case.outputs.values()]
    if case.is_over or (case.cancelled_at is not None and not any(lengths)):
        return None
    if any(lengths):
        return lengths
    return None if typical is None else [typical] * len(lengths)
