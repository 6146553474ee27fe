"""One scheduler and one worker whose cache holds the tokens themselves, stepped by hand."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from fake_worker import FakeWorker

from gllm.protocol.codec import decode, encode
from gllm.protocol.messages import Finished, Rejected, Sampling, StepPlan, Submit, Tokens
from gllm.protocol.wire import column
from gllm.scheduler.core import Scheduler

FRONTEND = b"f"


@dataclass
class Engine:
    """The core and a worker that answers at once when asked to step."""

    core: Scheduler
    worker: FakeWorker
    now: float = 0.0
    plans: deque[StepPlan] = field(default_factory=deque)
    got: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    ended: dict[tuple[int, int], Finished] = field(default_factory=dict)
    cached: Counter[tuple[int, int]] = field(default_factory=Counter)
    num_submitted: int = 0

    def submit(
        self,
        prompt: list[int],
        max_tokens: int,
        *,
        n: int = 1,
        priority: int = 0,
        timeout_s: float = 0.0,
        salt: str = "",
        name: str = "",
    ) -> Rejected | int:
        """The request's id, or why it was refused."""
        request_id = self.num_submitted
        self.num_submitted += 1
        sampling = Sampling(0.0, 0, 1.0, 0)
        request = Submit(
            request_id,
            column(prompt),
            [],
            sampling,
            max_tokens,
            column(),
            n,
            priority,
            timeout_s,
            salt,
            name=name,
        )
        return self.core.submit(FRONTEND, request, self.now) or request_id

    def plan(self) -> StepPlan | None:
        plan = self.core.plan(self.now)
        self.core.check()
        if plan is not None:
            self.plans.append(decode(encode(plan)))  # type: ignore[arg-type]
        return plan

    def commit(self) -> Tokens | None:
        tokens = self.core.commit(self.worker.step(self.plans.popleft()), self.now).get(FRONTEND)
        self.core.check()
        if tokens is not None:
            for row, token in enumerate(tokens.tokens):
                self.got.setdefault((tokens.request_ids[row], tokens.outputs[row]), []).append(token)
            for mark in tokens.cached:
                self.cached[tokens.request_ids[mark.row], tokens.outputs[mark.row]] = mark.num_tokens
            for item in tokens.finished:
                self.ended[tokens.request_ids[item.row], tokens.outputs[item.row]] = item
        return tokens

    def step(self) -> StepPlan | None:
        """One plan and its result."""
        plan = self.plan()
        if plan is not None:
            self.commit()
        return plan

    def run(self) -> None:
        """Until nothing is left to do."""
        while self.plans:
            self.commit()
        while self.step() is not None:
            pass


Make = Callable[..., Engine]
