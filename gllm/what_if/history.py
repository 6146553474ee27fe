"""What became of every request and every step, written down while a core works.

The same for a core that replays a recording and for one in a simulation, so that both can be
compared. Knows what a core was told and answered, nothing of why.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from gllm.protocol.messages import Rejected, Stats, StepPlan, Submit, Tokens
from gllm.scheduler.core import Scheduler
from gllm.steps.shape import StepShape


@dataclass(slots=True)
class Output:
    """One output of a request; times on the core's clock, None for what did not happen."""

    tokens: "array[int]" = field(default_factory=lambda: array("i"))  # those that it generated
    began_at: float | None = None
    first_token_at: float | None = None
    ended_at: float | None = None  # by itself


@dataclass(slots=True)
class Case:
    """One request from its submission on."""

    submitted_at: float
    frontend: bytes
    request: Submit
    outputs: dict[int, Output]
    was_there: bool = False  # before the history began
    is_rejected: bool = False
    is_expired: bool = False
    cancelled_at: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether every output ended by itself."""
        return all(output.ended_at is not None for output in self.outputs.values())


class History:
    """All cases and steps since `core` was given."""

    def __init__(self, core: Scheduler, now: float) -> None:
        self.began_at = self.now = now
        self.cases: list[Case] = []
        self.num_tokens = 0  # of all rows of all steps
        self._core = core
        self._first = core.stats(now)
        self._open: dict[tuple[bytes, int], Case] = {}

    def was_there(self, case: Case) -> None:
        """A request that the core had before the history began."""
        self.cases.append(case)
        self._open[case.frontend, case.request.request_id] = case

    def submitted(self, frontend: bytes, request: Submit, now: float, rejected: Rejected | None) -> Case:
        case = Case(now, frontend, request, {output: Output() for output in range(request.n)})
        self.now = now
        self.cases.append(case)
        if rejected is None:
            self._open[frontend, request.request_id] = case
        else:  # its id may be another's that is open
            case.is_rejected = True
        return case

    def planned(self, plan: StepPlan, now: float) -> StepShape:
        """The step that the core has just planned, and what it computes."""
        self.now = now
        flight = self._core.flights[-1]
        num_tokens, num_context, num_pairs = sum(flight.counts), 0, 0
        for sequence, count in zip(flight.rows, flight.counts, strict=True):
            assert sequence is not None  # nobody can have left yet
            end = sequence.num_planned_tokens
            num_context += end
            num_pairs += count * (2 * end - count + 1) // 2
            if plan.admits and sequence.began_at == now:
                case = self._open[sequence.frontend, sequence.request_id]
                case.outputs[sequence.output].began_at = now
        self.num_tokens += num_tokens
        return StepShape(
            num_tokens=num_tokens,
            num_rows=len(flight.rows),
            num_chunks=sum(count > 1 for count in flight.counts),
            num_sampled=sum(flight.samples),
            num_context_tokens=num_context,
            num_pairs=num_pairs,
        )

    def committed(self, messages: dict[bytes, Tokens], now: float) -> None:
        self.now = now
        for frontend, message in messages.items():
            ended = {item.row for item in message.finished}
            outputs = message.outputs or [0] * len(message.tokens)
            rows = zip(message.request_ids, outputs, message.tokens, strict=True)
            for row, (request_id, number, token) in enumerate(rows):
                case = self._open[frontend, request_id]
                output = case.outputs[number]
                output.tokens.append(token)
                if output.first_token_at is None:
                    output.first_token_at = now
                if row in ended:
                    output.ended_at = now
                    if case.is_over:
                        del self._open[frontend, request_id]

    def cancelled(self, frontend: bytes, request_ids: Iterable[int], now: float) -> None:
        self.now = now
        for request_id in request_ids:
            case = self._open.pop((frontend, request_id), None)
            if case is not None:
                case.cancelled_at = now

    def frontend_lost(self, frontend: bytes, now: float) -> None:
        self.cancelled(frontend, [request_id for owner, request_id in self._open if owner == frontend], now)

    def expired(self, rejected: Iterable[tuple[bytes, Rejected]], now: float) -> None:
        self.now = now
        for frontend, word in rejected:
            self._open.pop((frontend, word.request_id)).is_expired = True

    def counted(self) -> Stats:
        """The core's counters since the history began, and its state now."""
        stats = self._core.stats(self.now)
        for name in (
            "num_steps",
            "num_preemptions",
            "num_prompt_tokens",
            "num_generated_tokens",
            "num_prefix_query_tokens",
            "num_prefix_hit_tokens",
        ):
            setattr(stats, name, getattr(stats, name) - getattr(self._first, name))
        before = self._first.passed_over
        stats.passed_over = [new - old for new, old in zip(stats.passed_over, before, strict=True)]
        return stats
