"""A million scheduled tokens of random life: nothing leaks, nothing starves."""

import random
from collections import deque

import pytest
from fake_worker import FakeWorker, expected_tokens, mask_after

from gllm.protocol.messages import Mask, Sampling, StepPlan, Submit, WorkerReady
from gllm.protocol.wire import column
from gllm.scheduler.core import Scheduler
from gllm.scheduler.intake import Limits
from gllm.scheduler.policy import Fcfs, Policy, Priority, TokenThrottling

VOCAB_SIZE = 50
MAX_MODEL_LEN = 256
NUM_TOKENS = 334_000  # for each of the three policies
DEPTH = 2
NUM_PAGES = 90  # few, so that some sequences outgrow them
GREEDY = Sampling(0.0, 0, 1.0, 0)


class Life:
    """Arrivals, cancels, stop tokens and a lost worker now and then, from one seed."""

    def __init__(self, policy: Policy, seed: int) -> None:
        self.draw = random.Random(seed)
        self.ready = WorkerReady(1, NUM_PAGES, 8, 24, 160, MAX_MODEL_LEN, VOCAB_SIZE)
        limits = Limits(24, 160, 200, 20_000, DEPTH, share_prefixes=True)
        self.core = Scheduler(limits, policy, self.ready)
        self.worker = FakeWorker(self.ready)
        self.plans: deque[StepPlan] = deque()
        self.prefixes = [[self.draw.randrange(VOCAB_SIZE) for _ in range(100)] for _ in range(5)]
        self.open: dict[int, tuple[list[int], int, set[int], bool]] = {}
        self.got: dict[int, list[int]] = {}
        self.owed: deque[int] = deque()  # requests whose next mask has not been sent
        self.num_requests = 0
        self.num_computed = 0

    def submit(self) -> None:
        shared = self.draw.choice(self.prefixes)[: self.draw.randrange(101)]
        prompt = shared + [self.draw.randrange(VOCAB_SIZE) for _ in range(self.draw.randint(1, 40))]
        max_tokens = self.draw.randint(1, MAX_MODEL_LEN - len(prompt))
        stop = {self.draw.randrange(VOCAB_SIZE)}
        is_constrained = self.draw.random() < 0.3
        request = Submit(
            self.num_requests, column(prompt), [], GREEDY, max_tokens, column(stop), 1,
            self.draw.randint(-2, 2), 0.0, self.draw.choice(["", "", "salt"]), is_constrained,
        )  # fmt: skip
        if self.core.submit(b"f", request, 0.0) is None:
            self.open[self.num_requests] = prompt, max_tokens, stop, is_constrained
            self.got[self.num_requests] = []
            if is_constrained:
                self.owed.append(self.num_requests)
        self.num_requests += 1

    def step(self) -> None:
        while len(self.plans) < DEPTH and (plan := self.core.plan(0.0)) is not None:
            self.plans.append(plan)
        if not self.plans:
            assert bool(self.owed) == bool(self.core.running or self.core.waiting)
            self.send_masks(len(self.owed))
            return
        self.send_masks(self.draw.randint(0, 6))
        for tokens in self.core.commit(self.worker.step(self.plans.popleft()), 0.0).values():
            for request_id, token in zip(tokens.request_ids, tokens.tokens, strict=True):
                self.got[request_id].append(token)
                if self.open[request_id][3]:
                    self.owed.append(request_id)
            for item in tokens.finished:
                request_id = tokens.request_ids[item.row]
                prompt, max_tokens, stop, is_constrained = self.open.pop(request_id)
                if is_constrained:
                    self.owed.remove(request_id)
                expected = expected_tokens(prompt, max_tokens, stop, VOCAB_SIZE, is_constrained)
                assert self.got.pop(request_id) == expected

    def send_masks(self, count: int) -> None:
        """The next masks of the first `count` outputs that have waited for theirs longest."""
        for _ in range(min(count, len(self.owed))):
            request_id = self.owed.popleft()
            tokens = self.open[request_id][0] + self.got[request_id]
            mask = Mask(request_id, 0, len(self.got[request_id]), mask_after(tokens, VOCAB_SIZE))
            assert self.core.mask(b"f", mask) is None

    def cancel(self) -> None:
        if self.open:
            request_id = self.draw.choice(list(self.open))
            self.core.cancel(b"f", [request_id])
            del self.open[request_id], self.got[request_id]
            if request_id in self.owed:
                self.owed.remove(request_id)

    def lose_worker(self) -> None:
        self.core.worker_lost()
        self.plans.clear()
        self.num_computed += self.worker.num_computed_tokens
        self.ready = WorkerReady(self.ready.epoch + 1, NUM_PAGES, 8, 24, 160, MAX_MODEL_LEN, VOCAB_SIZE)
        self.worker = FakeWorker(self.ready)
        self.core.worker_ready(self.ready)


@pytest.mark.parametrize(
    "policy", [Fcfs(), Priority(), TokenThrottling(16, 160, 4, 0.1)], ids=lambda p: type(p).__name__
)
def test_a_million_tokens_of_random_life_leave_nothing_behind(policy: Policy) -> None:
    seed = 7
    print("seed", seed)
    life = Life(policy, seed)
    steps = 0
    while life.num_computed + life.worker.num_computed_tokens < NUM_TOKENS:
        steps += 1
        for _ in range(life.draw.choice([0, 0, 1, 2])):
            life.submit()
        if life.draw.random() < 0.05:
            life.cancel()
        if life.draw.random() < 0.002:
            life.lose_worker()
        life.step()
        if steps % 64 == 0:
            life.core.check()
    while life.core.running or life.core.waiting:
        life.step()
    while life.plans:
        life.step()
    assert not life.open
    stats = life.core.stats(0.0)
    assert stats.num_free_pages == stats.num_pages
    assert stats.num_free_slots == stats.num_slots
    assert stats.num_waiting_tokens == 0
    assert stats.num_preemptions > 0
    assert stats.num_prefix_hit_tokens > 0
    life.core.check()
