"""What a recording says about its requests and about the times of its steps.

Knows events and what they mean for a history; simulates nothing.
"""

from collections.abc import Sequence
from statistics import fmean

from gllm.protocol.messages import Mask, StepResult, Submit, Tokens
from gllm.scheduler.prefix import root_key
from gllm.scheduler.recording import (
    Cancelled,
    Committed,
    Event,
    Expired,
    FrontendLost,
    Masked,
    Part,
    Planned,
    RecordingError,
    Submitted,
    WorkerLost,
)
from gllm.scheduler.replay import Answer, Replay
from gllm.scheduler.state import CoreState, SequenceState
from gllm.steps.fit import fit
from gllm.steps.shape import StepShape
from gllm.what_if.history import Case, History, Output
from gllm.what_if.simulation import Costs


class RecordedHistory:
    """The history that was recorded, and its times; raises `Differs` where it does not replay."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._replay = Replay(parts)
        self.history = History(self._replay.core, self._replay.now)
        self.clockwork = Clockwork()
        self.num_lost_workers = 0
        for case in cases_there(parts[0].begin.state, self._replay.now):
            self.history.was_there(case)
        self._replay.run(watch=self._watch)

    def _watch(self, event: Event, answer: Answer) -> None:
        history, plan = self.history, self._replay.plan
        match event:
            case Submitted(now, frontend, request):
                assert not isinstance(answer, dict | list)
                history.submitted(frontend, request, now, answer)
            case Masked(now, frontend, mask):
                self.clockwork.masked(frontend, mask, now)
                if answer is not None:
                    history.cancelled(frontend, [mask.request_id], now)
            # Of a request that lost single outputs the others count on; it is cut where each of them ended.
            case Cancelled(now, frontend, request_ids, outputs) if not outputs:
                history.cancelled(frontend, request_ids, now)
            case FrontendLost(now, frontend):
                history.frontend_lost(frontend, now)
            case Expired(now):
                assert isinstance(answer, list)
                history.expired(answer, now)
            case Planned() if plan is not None:
                now = self._replay.now
                self.clockwork.planned(plan.epoch, plan.step, history.planned(plan, now), now)
            case Committed(now, result):
                assert isinstance(answer, dict)
                history.committed(answer, now)
                self.clockwork.finished(result, now)
                self.clockwork.delivered(answer, now)
            case WorkerLost():
                self.num_lost_workers += 1


class Clockwork:
    """What takes how long, from the times of plans and results."""

    def __init__(self) -> None:
        self._shapes: list[StepShape] = []
        self._seconds: list[float] = []
        self._in_flight: dict[tuple[int, int], tuple[StepShape, float]] = {}
        self._last_end = 0.0
        self._to_worker: list[float] = []
        self._between: list[float] = []
        self._to_scheduler: list[float] = []
        self._delivered_at: dict[tuple[bytes, int, int], float] = {}  # the last token of each output
        self._to_mask: list[float] = []

    def planned(self, epoch: int, step: int, shape: StepShape, now: float) -> None:
        self._in_flight[epoch, step] = shape, now

    def finished(self, result: StepResult, now: float) -> None:
        shape, planned_at = self._in_flight.pop((result.epoch, result.step), (None, 0.0))
        if shape is None or result.end_ns <= result.start_ns:
            return
        start, end = result.start_ns / 1e9, result.end_ns / 1e9
        self._shapes.append(shape)
        self._seconds.append(end - start)
        if planned_at > self._last_end:
            self._to_worker.append(start - planned_at)
        else:
            self._between.append(start - self._last_end)
        self._to_scheduler.append(now - end)
        self._last_end = end

    def delivered(self, messages: dict[bytes, Tokens], now: float) -> None:
        for frontend, message in messages.items():
            outputs = message.outputs or [0] * len(message.tokens)
            for request_id, output in zip(message.request_ids, outputs, strict=True):
                self._delivered_at[frontend, request_id, output] = now

    def masked(self, frontend: bytes, mask: Mask, now: float) -> None:
        before = self._delivered_at.get((frontend, mask.request_id, mask.output))
        if before is not None and mask.num_generated:
            self._to_mask.append(now - before)

    def costs(self) -> Costs:
        """Raises `RecordingError` if no step was timed."""
        if not self._shapes:
            raise RecordingError(
                "no result in the recording says how long its step took: nothing to simulate with"
            )
        step, error = fit(self._shapes, self._seconds)
        latencies = (self._to_worker, self._between, self._to_scheduler, self._to_mask)
        return Costs(
            step,
            error,
            [took - step.seconds(shape) for shape, took in zip(self._shapes, self._seconds, strict=True)],
            min(self._seconds),
            *[max(fmean(times), 0.0) if times else 0.0 for times in latencies],
        )


def cases_there(state: CoreState, now: float) -> list[Case]:
    """The requests that a recording begins with, as if handed in again: with what they have."""
    requests: dict[tuple[bytes, int], list[SequenceState]] = {}
    for sequence in state.sequences:
        requests.setdefault((sequence.frontend, sequence.request_id), []).append(sequence)
    return [_case_there(sequences, now) for sequences in requests.values()]


def _case_there(sequences: Sequence[SequenceState], now: float) -> Case:
    first = sequences[0]
    num_prompt = first.num_prompt_tokens
    # Only the hash of the salt is known: whatever stands for it keeps apart what was apart.
    unsalted = (root_key(""), root_key("", num_prompt))
    salt = "" if first.prefix_root in unsalted else first.prefix_root.hex()
    request = Submit(
        request_id=first.request_id,
        prompt=first.tokens[:num_prompt],
        generated=[sequence.tokens[num_prompt:] for sequence in sequences],
        sampling=first.sampling,
        max_tokens=first.max_len - num_prompt,
        stop_token_ids=first.stop_token_ids,
        n=len(sequences),
        priority=first.priority,
        timeout_s=0.0,
        cache_salt=salt,
        is_constrained=first.is_constrained,
    )
    outputs = {sequence.output: Output() for sequence in sequences}
    return Case(now, first.frontend, request, outputs, was_there=True)
