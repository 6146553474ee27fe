"""Random lives of the scheduler's core against a worker whose cache holds the tokens themselves."""

from collections import deque
from dataclasses import replace

import hypothesis.strategies as st
from fake_logprobs import read
from fake_worker import FakeWorker, expected_tokens, mask_after
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gllm.protocol.codec import decode, encode
from gllm.protocol.messages import (
    FinishReason,
    Mask,
    Masks,
    RejectCode,
    Sampling,
    StepPlan,
    Submit,
    Tokens,
    WorkerReady,
)
from gllm.protocol.wire import INT32_MAX, column
from gllm.scheduler.core import Scheduler
from gllm.scheduler.intake import Limits
from gllm.scheduler.policy import Fcfs, Policy, Priority, TokenThrottling

VOCAB_SIZE = 11
MAX_MODEL_LEN = 24
MAX_QUEUED = 20
MAX_QUEUED_TOKENS = 200


class Life(RuleBasedStateMachine):
    """Requests come, are cancelled, end; the worker lags, dies and returns; at any depth."""

    @initialize(
        depth=st.integers(1, 3),
        page_size=st.sampled_from([1, 2, 4]),
        spare_pages=st.integers(0, 12),
        max_num_seqs=st.integers(1, 5),
        budget=st.integers(1, 12),
        policy=st.sampled_from([Fcfs(), Priority(), TokenThrottling(1, 8, 2, 0.1)]),
        share_prefixes=st.booleans(),
        length_bound=st.sampled_from([1, 4, 7, 12, INT32_MAX]),
    )
    def begin(
        self,
        depth: int,
        page_size: int,
        spare_pages: int,
        max_num_seqs: int,
        budget: int,
        policy: Policy,
        share_prefixes: bool,
        length_bound: int,
    ) -> None:
        self.depth = depth
        num_pages = -(-MAX_MODEL_LEN // page_size) + spare_pages
        self.ready = WorkerReady(1, num_pages, page_size, 8, budget, MAX_MODEL_LEN, VOCAB_SIZE, length_bound)
        self.core = Scheduler(
            Limits(max_num_seqs, budget, MAX_QUEUED, MAX_QUEUED_TOKENS, depth, share_prefixes),
            policy,
            self.ready,
        )
        self.now = 0.0
        self.worker = FakeWorker(self.ready)
        self.plans: deque[StepPlan] = deque()
        self.next_id = 0
        self.expected: dict[tuple[bytes, int, int], list[int]] = {}
        self.got: dict[tuple[bytes, int, int], list[int]] = {}
        self.ended: dict[tuple[bytes, int, int], FinishReason] = {}
        self.cancelled: set[tuple[bytes, int, int]] = set()
        self.max_tokens: dict[tuple[bytes, int, int], int] = {}
        self.samplings: dict[tuple[bytes, int], Sampling] = {}
        self.prompt_of: dict[tuple[bytes, int], list[int]] = {}
        self.prompt_logprobs: dict[tuple[bytes, int], dict[int, int]] = {}  # token by position
        self.num_delivered: dict[tuple[bytes, int, int], int] = {}
        self.prompts: dict[tuple[bytes, int, int], list[int]] = {}  # of the constrained ones
        self.owed: set[tuple[bytes, int, int]] = set()  # outputs whose next mask has not been sent

    @rule(
        frontend=st.sampled_from([b"a", b"b"]),
        # Few different tokens: many prompts begin alike.
        prompt=st.lists(st.sampled_from([0, 0, 0, 1]), min_size=1, max_size=MAX_MODEL_LEN - 1),
        max_tokens=st.integers(1, MAX_MODEL_LEN),
        stop=st.sets(st.integers(0, VOCAB_SIZE - 1), max_size=2),
        n=st.integers(1, 3),
        num_generated=st.integers(0, 3),
        priority=st.integers(-1, 1),
        timeout_s=st.sampled_from([0.0, 0.0, 3.0]),
        salt=st.sampled_from(["", "", "tenant"]),
        is_constrained=st.booleans(),
        logprobs=st.sampled_from([(0, 0), (0, 0), (3, 0), (0, 1), (1, 2)]),
    )
    def submit(
        self,
        frontend: bytes,
        prompt: list[int],
        max_tokens: int,
        stop: set[int],
        n: int,
        num_generated: int,
        priority: int,
        timeout_s: float,
        salt: str,
        is_constrained: bool,
        logprobs: tuple[int, int],
    ) -> None:
        max_tokens = min(max_tokens, MAX_MODEL_LEN - len(prompt))
        expected = expected_tokens(
            prompt, max_tokens, stop, VOCAB_SIZE, is_constrained, self.ready.length_bound
        )
        generated = expected[: min(num_generated, len(expected) - 1)]
        request = Submit(
            self.next_id,
            column(prompt),
            [column(generated) for _ in range(n)] if generated else [],
            Sampling(0.0, 0, 1.0, 0, *logprobs),
            max_tokens,
            column(sorted(stop)),
            n,
            priority,
            timeout_s,
            salt,
            is_constrained,
        )
        num_waiting, num_tokens = len(self.core.waiting), self.core.waiting.num_tokens
        rejected = self.core.submit(frontend, decode(encode(request)), self.now)  # type: ignore[arg-type]
        if rejected is not None:
            assert rejected.code == RejectCode.OVERLOADED
            assert num_waiting + n > MAX_QUEUED or num_tokens + n * len(prompt) > MAX_QUEUED_TOKENS
            return
        self.samplings[frontend, self.next_id] = request.sampling
        self.prompt_of[frontend, self.next_id] = prompt
        for output in range(n):
            key = frontend, self.next_id, output
            self.expected[key] = expected
            self.got[key] = list(generated)
            self.max_tokens[key] = max_tokens
            self.num_delivered[key] = 0
            if is_constrained:
                self.prompts[key] = prompt
                self.owed.add(key)
        self.next_id += 1

    @precondition(lambda self: self.owed)
    @rule(data=st.data())
    def send_mask(self, data: st.DataObject) -> None:
        self.send_mask_of(data.draw(st.sampled_from(sorted(self.owed))))

    def send_mask_of(self, key: tuple[bytes, int, int]) -> None:
        """As a frontend does for every token that it has seen, also of what has ended meanwhile."""
        frontend, request_id, output = key
        self.owed.discard(key)
        bits = mask_after(self.prompts[key] + self.got[key], VOCAB_SIZE)
        mask = Mask(request_id, output, len(self.got[key]), bits)
        (mask,) = decode(encode(Masks([mask]))).masks  # type: ignore[attr-defined]
        assert self.core.mask(frontend, mask) is None

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        open_keys = sorted(self.expected.keys() - self.ended.keys() - self.cancelled)
        if open_keys:
            frontend, request_id, output = data.draw(st.sampled_from(open_keys))
            if data.draw(st.booleans()):
                self.core.cancel(frontend, [10**6, request_id, request_id], [0, output, 99])
                self.cancelled.add((frontend, request_id, output))
                return
            self.core.cancel(frontend, [request_id, 10**6])
            self.cancelled |= {key for key in open_keys if key[:2] == (frontend, request_id)}

    @rule(frontend=st.sampled_from([b"a", b"b"]))
    def lose_frontend(self, frontend: bytes) -> None:
        self.core.frontend_lost(frontend)
        self.cancelled |= {k for k in self.expected.keys() - self.ended.keys() if k[0] == frontend}

    @rule()
    def time_passes(self) -> None:
        self.now += 1.0
        for frontend, rejected in self.core.expire(self.now):
            assert rejected.code == RejectCode.TIMEOUT
            keys = {key for key in self.expected if key[:2] == (frontend, rejected.request_id)}
            keys -= self.cancelled  # single outputs were
            assert keys
            assert not keys & (self.ended.keys() | self.cancelled)
            assert all(self.num_delivered[key] == 0 for key in keys)
            self.cancelled |= keys

    @rule()
    def lose_worker(self) -> None:
        self.core.worker_lost()
        self.core.check()
        assert self.core.plan(self.now) is None
        # A late answer of the dead worker comes after the new one is there.
        late = self.worker.step(self.plans[0]) if self.plans else None
        self.plans.clear()
        self.ready = replace(self.ready, epoch=self.ready.epoch + 1)
        self.worker = FakeWorker(self.ready)
        self.core.worker_ready(self.ready)
        if late is not None:
            assert self.core.commit(late, self.now) == {}

    @precondition(lambda self: len(self.plans) < self.depth)
    @rule()
    def plan(self) -> None:
        alive = [*self.core.waiting, *self.core.running]
        could_run = not self.plans and bool(alive) and not any(s.awaits_mask for s in alive)
        plan = self.core.plan(self.now)
        assert plan is not None or not could_run, "no step, although work could run"
        if plan is not None:
            self.plans.append(decode(encode(plan)))  # type: ignore[arg-type]

    @precondition(lambda self: self.plans)
    @rule()
    def commit(self) -> None:
        for frontend, tokens in self.core.commit(self.worker.step(self.plans.popleft()), self.now).items():
            self.take_logprobs(frontend, tokens)
            reasons = {item.row: FinishReason(item.reason) for item in tokens.finished}
            for row, token in enumerate(tokens.tokens):
                key = frontend, tokens.request_ids[row], tokens.outputs[row]
                assert key not in self.ended
                assert key not in self.cancelled
                self.got[key].append(token)
                self.num_delivered[key] += 1
                if self.samplings[key[:2]].num_prompt_logprobs and not key[2]:
                    told = dict(enumerate(self.prompt_of[key[:2]][1:], 1))
                    assert self.prompt_logprobs.get(key[:2], {}) == told, "told before the first token"
                assert self.got[key] == self.expected[key][: len(self.got[key])]
                if key in self.prompts:
                    self.owed.add(key)
                if row in reasons:
                    self.ended[key] = reasons[row]

    def take_logprobs(self, frontend: bytes, tokens: Tokens) -> None:
        """Whoever asked gets those of its own tokens, and nobody else any."""
        told = {} if tokens.logprobs is None else {item[0]: item[1:] for item in read(tokens.logprobs)}
        for row, token in enumerate(tokens.tokens):
            request, output = (frontend, tokens.request_ids[row]), tokens.outputs[row]
            wanted = self.samplings[request].num_logprobs
            if wanted:
                position = len(self.prompt_of[request]) + len(self.got[*request, output])
                assert told.pop(row) == (position, token, wanted)
        assert not told
        for part in tokens.prompt_logprobs:
            request = frontend, part.owner
            assert (*request, 0) not in self.cancelled
            for place, position, token, count in read(part.logprobs):
                assert place == position
                assert count == self.samplings[request].num_prompt_logprobs
                self.prompt_logprobs.setdefault(request, {})[position] = token

    @invariant()
    def everything_is_accounted_for(self) -> None:
        if hasattr(self, "core"):
            self.core.check()

    def teardown(self) -> None:
        """Whatever is left runs to its end within a bound, and leaves nothing behind."""
        if not hasattr(self, "core"):
            return
        bound = 10 + sum(2 * MAX_MODEL_LEN for _ in self.expected) * 4
        while self.core.running or self.core.waiting or self.plans:
            while len(self.plans) < self.depth and (plan := self.core.plan(self.now)) is not None:
                self.plans.append(plan)
                self.core.check()
            assert self.plans or self.owed
            if self.plans:
                self.commit()
            for key in sorted(self.owed):
                self.send_mask_of(key)
            bound -= 1
            assert bound > 0, "the scheduler makes no progress"
        for key, expected in self.expected.items():
            if key in self.cancelled:
                assert key not in self.ended
            else:
                assert self.got[key] == expected
                if len(expected) < self.max_tokens[key]:
                    assert self.ended[key] is FinishReason.STOP
                else:
                    assert key in self.ended
        stats = self.core.stats(0.0)
        assert stats.num_free_pages == stats.num_pages
        assert stats.num_free_slots == stats.num_slots
        self.core.check()


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
