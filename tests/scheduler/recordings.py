"""Recordings of random runs in virtual time, with a worker whose steps take what a formula says."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fake_worker import FakeWorker, mask_after

from gllm.protocol.messages import Mask, Sampling, StepResult, Submit, WorkerReady
from gllm.protocol.wire import column
from gllm.scheduler.core import Scheduler
from gllm.scheduler.intake import Limits
from gllm.scheduler.journal import Journal
from gllm.scheduler.policy import Fcfs, Policy
from gllm.scheduler.record import Recorder
from gllm.scheduler.recording import MAGIC, Begin, Event, Part, frame

VOCAB_SIZE = 50
MAX_MODEL_LEN = 64
STEP_NS, TOKEN_NS, ROW_NS = 1_000_000, 20_000, 50_000


class VirtualRun:
    """A core, a worker, and the time."""

    def __init__(
        self,
        wrap: Callable[[Scheduler, Callable[[], float]], Any],
        *,
        seed: int = 0,
        policy: Policy | None = None,
        num_pages: int = 40,
        cancel_share: float = 0.0,
        loss_share: float = 0.0,
        constrained_share: float = 0.3,
    ) -> None:
        """`wrap` gets the core and a clock, and gives what stands for the core."""
        self.rng = random.Random(seed)
        self.cancel_share = cancel_share
        self.loss_share = loss_share
        self.constrained_share = constrained_share
        self.now_ns = 10**9
        self.worker = FakeWorker(WorkerReady(1, num_pages, 4, 6, 32, MAX_MODEL_LEN, VOCAB_SIZE))
        limits = Limits(6, 32, 200, 10_000, 2, True)
        self.core = wrap(Scheduler(limits, policy or Fcfs(), self.worker.ready), lambda: self.now)
        self.results: deque[StepResult] = deque()
        self.num_submitted = 0
        self.constrained: dict[tuple[int, int], list[int]] = {}  # all tokens of these outputs ...
        self.num_prompt_tokens: dict[int, int] = {}  # ... and how many of them are their prompts'

    @property
    def now(self) -> float:
        return self.now_ns / 1e9

    def serve(self, num_requests: int) -> None:
        """All of `num_requests`, which come at random times, to their ends."""
        arrivals = deque(
            sorted(self.now_ns + self.rng.randrange(num_requests * 3_000_000) for _ in range(num_requests))
        )
        while arrivals or self.results:
            while arrivals and arrivals[0] <= self.now_ns:
                arrivals.popleft()
                self.submit()
            while self.results and self.results[0].end_ns <= self.now_ns:
                for message in self.core.commit(self.results.popleft(), self.now).values():
                    rows = zip(message.request_ids, message.outputs, message.tokens, strict=True)
                    for request_id, output, token in rows:
                        self.mask(request_id, output, token)
            self.core.expire(self.now)
            self.plan()
            if self.rng.random() < self.loss_share:
                self.lose_worker()
            if self.loss_share and self.rng.random() < self.loss_share:
                self.core.reset_prefix_cache()
            moments = [*list(arrivals)[:1], *[result.end_ns for result in list(self.results)[:1]]]
            self.now_ns = max(self.now_ns, min(moments, default=0))

    def submit(self) -> None:
        """A request, and perhaps the end of another."""
        rng = self.rng
        request = Submit(
            request_id=self.num_submitted,
            prompt=column([rng.randrange(2) for _ in range(rng.randrange(1, 40))]),
            generated=[],
            sampling=Sampling(0.0, 0, 1.0, 0),
            max_tokens=rng.randrange(1, 25),
            stop_token_ids=column([rng.randrange(VOCAB_SIZE)]),
            n=rng.choice([1, 1, 1, 2]),
            priority=rng.randrange(3),
            timeout_s=rng.choice([0.0, 0.0, 0.03]) if self.cancel_share else 0.0,
            cache_salt=rng.choice(["", "", "tenant"]),
            is_constrained=rng.random() < self.constrained_share,
        )
        self.num_submitted += 1
        self.core.submit(b"f", request, self.now)
        self.num_prompt_tokens[request.request_id] = len(request.prompt)
        if request.is_constrained:
            for output in range(request.n):
                self.constrained[request.request_id, output] = list(request.prompt)
                self.mask(request.request_id, output, None)
        if rng.random() < self.cancel_share:
            self.core.cancel(b"f", [rng.randrange(self.num_submitted)])

    def mask(self, request_id: int, output: int, token: int | None) -> None:
        """The mask behind `token` (None: behind the prompt), if the output is a constrained one."""
        known = self.constrained.get((request_id, output))
        if known is None:
            return
        num_generated = 0
        if token is not None:
            known.append(token)
            num_generated = len(known) - self.num_prompt_tokens[request_id]
        self.core.mask(b"f", Mask(request_id, output, num_generated, mask_after(known, VOCAB_SIZE)))

    def plan(self) -> None:
        while len(self.core.flights) < 2 and (plan := self.core.plan(self.now)) is not None:
            start = max(self.now_ns, self.results[-1].end_ns if self.results else 0)
            num_tokens = sum(plan.counts) or len(plan.slots)
            end = start + STEP_NS + TOKEN_NS * num_tokens + ROW_NS * len(plan.slots)
            tokens = self.worker.step(plan).tokens
            self.results.append(StepResult(plan.epoch, plan.step, tokens, start, end, 0))

    def lose_worker(self) -> None:
        """The late results of the old one still come."""
        self.core.worker_lost()
        ready = replace(self.worker.ready, epoch=self.worker.ready.epoch + 1)
        self.worker = FakeWorker(ready)
        self.core.worker_ready(ready)
        self.plan()


def recorded_into(file: Path, max_bytes: int = 1 << 28, max_files: int = 4, **options: Any) -> VirtualRun:
    """A run whose `core` is a recorder."""
    return VirtualRun(
        lambda core, clock: Recorder(core, Journal(file, max_bytes, max_files), clock), **options
    )


def record_run(file: Path, num_requests: int = 60, **options: Any) -> Scheduler:
    """A whole run; its core as it is in the end."""
    run = recorded_into(file, **options)
    run.serve(num_requests)
    run.core.close()
    core: Scheduler = run.core.core
    return core


def events_of(file: Path) -> tuple[Begin, list[Event]]:
    part = Part.open(file)
    return part.begin, list(part.events())


def write_part(file: Path, begin: Begin, events: list[Event]) -> None:
    """A part by hand."""
    file.write_bytes(MAGIC + b"".join(map(frame, [begin, *events])))
