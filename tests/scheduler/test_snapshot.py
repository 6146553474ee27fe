"""A core made from a snapshot does what the original does, and a recorded life can be replayed."""

import random
import shutil
import tempfile
from collections.abc import Iterable
from collections.abc import Sequence as Sequenced
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import rule
from recordings import VirtualRun
from test_life import Life

from gllm.config import SchedulerConfig
from gllm.protocol.codec import encode
from gllm.protocol.messages import (
    Mask,
    Rejected,
    Sampling,
    StepPlan,
    StepResult,
    Submit,
    Tokens,
    WorkerReady,
)
from gllm.protocol.wire import column, read_record
from gllm.scheduler.core import Scheduler
from gllm.scheduler.flight import Flight
from gllm.scheduler.intake import Limits
from gllm.scheduler.journal import Journal
from gllm.scheduler.kinds import POLICIES, name_of
from gllm.scheduler.policy import Fcfs, Policy, Priority, TokenThrottling, policy_of
from gllm.scheduler.prefix import PrefixKeys
from gllm.scheduler.record import Recorder
from gllm.scheduler.recording import open_recording
from gllm.scheduler.replay import Replay
from gllm.scheduler.sequence import Sequence
from gllm.scheduler.snapshot import restore, snapshot
from gllm.scheduler.state import CoreState, SequenceState

ANY_LIFE = settings(
    max_examples=40,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


def copy_of(core: Scheduler) -> Scheduler:
    """By way of the wire, as a file would keep it."""
    return restore(read_record(CoreState, snapshot(core).to_wire()))


class Twins:
    """A core and its copy: whatever one is asked, the other is asked, too, and must answer alike."""

    def __init__(self, core: Scheduler) -> None:
        self.core = core
        self.copy = copy_of(core)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)

    def renew(self) -> None:
        self.copy = copy_of(self.core)
        self.check()

    def submit(self, frontend: bytes, request: Submit, now: float) -> Rejected | None:
        return self._same(self.core.submit(frontend, request, now), self.copy.submit(frontend, request, now))

    def mask(self, frontend: bytes, mask: Mask) -> Rejected | None:
        return self._same(self.core.mask(frontend, mask), self.copy.mask(frontend, mask))

    def cancel(self, frontend: bytes, request_ids: Iterable[int], outputs: Sequenced[int] = ()) -> None:
        self.core.cancel(frontend, request_ids, outputs)
        self.copy.cancel(frontend, request_ids, outputs)

    def frontend_lost(self, frontend: bytes) -> None:
        self.core.frontend_lost(frontend)
        self.copy.frontend_lost(frontend)

    def expire(self, now: float) -> list[tuple[bytes, Rejected]]:
        return self._same(self.core.expire(now), self.copy.expire(now))

    def plan(self, now: float) -> StepPlan | None:
        plan, copied = self.core.plan(now), self.copy.plan(now)
        assert (plan and encode(plan)) == (copied and encode(copied))
        return plan

    def commit(self, result: StepResult, now: float) -> dict[bytes, Tokens]:
        return self._same(self.core.commit(result, now), self.copy.commit(result, now))

    def worker_ready(self, worker: WorkerReady) -> None:
        self.core.worker_ready(worker)
        self.copy.worker_ready(worker)

    def worker_lost(self) -> None:
        self.core.worker_lost()
        self.copy.worker_lost()

    def reset_prefix_cache(self) -> int:
        return self._same(self.core.reset_prefix_cache(), self.copy.reset_prefix_cache())

    def check(self) -> None:
        self.core.check()
        self.copy.check()
        assert snapshot(self.core).to_wire() == snapshot(self.copy).to_wire()

    def _same(self, one: Any, other: Any) -> Any:
        assert one == other
        return one


class TwinLife(Life):
    """Life asks twins; the copy is made anew at any moment."""

    @property
    def core(self) -> Any:
        return self.twins

    @core.setter
    def core(self, core: Scheduler) -> None:
        self.twins = Twins(core)

    @rule()
    def copy_anew(self) -> None:
        self.twins.renew()


class Recording(Recorder):
    """A recorder that answers everything else like its core."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)


class RecordedLife(Life):
    """Life is recorded into files of about 2000 bytes, and replayed in the end."""

    @property
    def core(self) -> Any:
        return self.recorder

    @core.setter
    def core(self, core: Scheduler) -> None:
        self.folder = Path(tempfile.mkdtemp())
        journal = Journal(self.folder / "run.glr", 2000, 1000)
        self.recorder = Recording(core, journal, lambda: getattr(self, "now", 0.0))

    def teardown(self) -> None:
        if not hasattr(self, "recorder"):
            return
        try:
            super().teardown()
            self.recorder.close()
            run = Replay(open_recording(self.folder / "run.glr"))
            run.run()
            assert snapshot(run.core).to_wire() == snapshot(self.recorder.core).to_wire()
            assert run.num_plans == run.core.num_steps
            assert run.error is None
        finally:
            self.recorder.close()
            shutil.rmtree(self.folder)


TestTwinLife = TwinLife.TestCase
TestTwinLife.settings = ANY_LIFE
TestRecordedLife = RecordedLife.TestCase
TestRecordedLife.settings = ANY_LIFE


class RenewedTwins(Twins):
    """Twins of which the copy is made anew before every tenth plan or so."""

    def __init__(self, core: Scheduler, rng: random.Random) -> None:
        super().__init__(core)
        self.rng = rng

    def plan(self, now: float) -> StepPlan | None:
        if not self.rng.randrange(10):
            self.renew()
        return super().plan(now)


@pytest.mark.parametrize("policy", [Fcfs(), Priority(), TokenThrottling(4, 16, 2, 0.1)])
def test_a_copy_made_at_any_moment_of_a_busy_run_goes_on_alike(policy: Policy) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    run = VirtualRun(
        lambda core, _: RenewedTwins(core, random.Random(seed)),
        seed=seed,
        policy=policy,
        num_pages=30,
        cancel_share=0.1,
        loss_share=0.005,
    )
    run.serve(150)
    run.core.check()
    assert run.core.num_preemptions > 0
    assert run.core.num_prefix_hit_tokens > 0


def test_a_core_without_a_worker_can_be_copied() -> None:
    run = VirtualRun(lambda core, _: Twins(core))
    run.submit()
    run.plan()
    run.core.worker_lost()
    run.core.renew()
    assert run.core.plan(2.0) is None
    run.core.worker_ready(replace(run.worker.ready, epoch=2))
    assert run.core.plan(3.0) is not None


def test_the_state_knows_every_field_of_the_core() -> None:
    """A new field of the core must be added to the state and the snapshot, or be known as derived."""
    core = Scheduler(
        Limits(2, 8, 9, 99, 2, True), policy_of(SchedulerConfig()), WorkerReady(1, 4, 2, 2, 8, 8, 9)
    )
    assert vars(core).keys() == {
        "limits", "policy", "worker", "flights", "waiting", "running", "num_steps", "num_preemptions",
        "num_prompt_tokens", "num_generated_tokens", "num_prefix_query_tokens", "num_prefix_hit_tokens",
        "_deadlines", "_planner", "_requests", "_num_arrivals",
    }  # fmt: skip
    assert vars(core._planner).keys() == {
        "_limits", "_policy", "_waiting", "_running", "_deadlines", "num_turns",
    }  # fmt: skip
    assert vars(core.running).keys() == {
        "_policy", "_limits", "_flights", "_sequences", "growth", "cache", "num_slots", "_free_slots",
        "released",
    }  # fmt: skip
    assert vars(core.cache).keys() == {"pool", "page_size", "share_prefixes", "length_bound"}
    assert vars(core.cache.pool).keys() == {
        "num_pages",
        "_holders",
        "_free",
        "_cached",
        "_key_of",
        "_page_of",
    }
    assert vars(core.waiting).keys() == {"_policy", "_sequences", "num_tokens", "passed_over"}
    assert vars(core.running.growth).keys() == {"share", "num_allowed_tokens"}
    assert vars(core._deadlines).keys() == {"_heap", "_deadline_of"}
    assert set(PrefixKeys.__slots__) == {"_root", "_keys"}
    assert {f.name for f in fields(Flight)} == {"step", "planned_at", "rows", "counts", "samples"}
    states = {f.name for f in fields(SequenceState)} - {"prefix_root"}
    assert {f.name for f in fields(Sequence)} - {"prefix_keys"} == states


def test_every_policy_can_be_recorded() -> None:
    names = ["fcfs", "priority", "token_throttling"]
    assert list(POLICIES) == names
    assert [name_of(policy_of(SchedulerConfig(policy=name))) for name in names] == names  # type: ignore[arg-type]


def test_a_snapshot_shares_nothing_with_the_core() -> None:
    core = Scheduler(
        Limits(2, 8, 9, 99, 2, True), policy_of(SchedulerConfig()), WorkerReady(1, 4, 2, 2, 8, 8, 9)
    )
    request = Submit(1, column([1, 2, 3]), [], Sampling(0.0, 0, 1.0, 0), 4, column(), 2, 0, 9.0, "")
    core.submit(b"a", request, 0.0)
    taken = snapshot(core)
    written = repr(taken)
    copy = restore(taken)
    for scheduler in (core, copy):
        plan = scheduler.plan(1.0)
        assert plan is not None
        scheduler.commit(StepResult(1, plan.step, column([5, 6]), 0, 0, 0), 2.0)
        scheduler.plan(3.0)
        scheduler.cancel(b"a", [1])
    assert repr(taken) == written
