"""The scheduler's real core and the worker's real runner in one process, joined by calls instead of sockets.

So that a bare GPU machine, which lacks the libraries of the other processes, runs the same plans and the
same steps as a deployment.
"""

import time
from collections import deque
from dataclasses import dataclass

from gllm.protocol.logits import Logprobs
from gllm.protocol.messages import Sampling, StepPlan, Submit, WorkerReady
from gllm.protocol.wire import column
from gllm.scheduler.core import Scheduler
from gllm.scheduler.intake import Limits
from gllm.scheduler.policy import Fcfs
from gllm.worker.output import StepOutput
from gllm.worker.runner import ModelRunner

FRONTEND = b"bench"
GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)


@dataclass(slots=True)
class Step:
    """One step as the host saw it; `seconds` since the step before came home."""

    num_rows: int
    num_tokens: int
    seconds: float = 0.0

    @property
    def is_decode(self) -> bool:
        return self.num_rows == self.num_tokens


class Engine:
    """One run: requests in, steps and tokens (by request) out."""

    def __init__(self, runner: ModelRunner, max_plans_in_flight: int = 2) -> None:
        self.runner = runner
        self.max_plans_in_flight = max_plans_in_flight
        self.steps: list[Step] = []
        self.tokens: dict[int, list[int]] = {}
        self.logprobs: list[Logprobs] = []
        slots = runner.slots
        ready = WorkerReady(
            epoch=1,
            num_pages=slots.pool_pages,
            page_size=slots.page_size,
            num_slots=slots.num_slots,
            max_num_batched_tokens=self.runner.max_num_batched_tokens,
            max_model_len=slots.max_model_len,
            vocab_size=slots.vocab_size,
        )
        limits = Limits(
            max_num_seqs=slots.num_slots,
            max_num_batched_tokens=self.runner.max_num_batched_tokens,
            max_num_queued_reqs=1 << 20,
            max_num_queued_tokens=1 << 30,
            max_plans_in_flight=self.max_plans_in_flight,
            share_prefixes=False,
        )
        self._core = Scheduler(limits, Fcfs(), ready)

    def submit(self, prompt: list[int], max_tokens: int, sampling: Sampling = GREEDY) -> int:
        """A request of exactly so many tokens; its number."""
        number = len(self.tokens)
        self.tokens[number] = []
        request = Submit(
            request_id=number,
            prompt=column(prompt),
            generated=[],
            sampling=sampling,
            max_tokens=max_tokens,
            stop_token_ids=column(),
            n=1,
            priority=0,
            timeout_s=0.0,
            cache_salt="",
        )
        refused = self._core.submit(FRONTEND, request, 0.0)
        if refused is not None:
            raise ValueError(refused.sentence)
        return number

    def run(self) -> None:
        """Until every request has ended. A step is launched before the one before it is waited for, if so
        many plans may be in flight."""
        in_flight: deque[tuple[StepPlan, StepOutput]] = deque()
        home_at = time.perf_counter()
        while True:
            while len(in_flight) < self.max_plans_in_flight and (plan := self._core.plan(0.0)) is not None:
                in_flight.append((plan, self.runner.launch(plan)))
            if not in_flight:
                break
            plan, output = in_flight.popleft()
            result = output.take().result_of(plan)
            now = time.perf_counter()
            step = Step(len(plan.slots), sum(plan.counts) or len(plan.slots), now - home_at)
            self.steps.append(step)
            home_at = now
            for answer in self._core.commit(result, 0.0).values():
                self.logprobs += [answer.logprobs] if answer.logprobs is not None else []
                self.logprobs += [part.logprobs for part in answer.prompt_logprobs]
                for number, token in zip(answer.request_ids, answer.tokens, strict=True):
                    self.tokens[number].append(token)
        self._leave_slots()

    def _leave_slots(self) -> None:
        """The next engine on this runner finds its slots free."""
        slots = self.runner.slots
        used = [slot for slot in range(slots.num_slots) if slots.num_known[slot]]
        none = column()
        slots.apply(StepPlan(0, 0, none, none, none, none, [], column(used)))
