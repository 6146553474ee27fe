"""Engines that a test steps by hand, and where a recording goes."""

from pathlib import Path

import pytest
from by_hand import Engine, Make
from fake_worker import FakeWorker

from gllm.protocol.messages import WorkerReady
from gllm.protocol.wire import INT32_MAX
from gllm.scheduler.core import Scheduler
from gllm.scheduler.intake import Limits
from gllm.scheduler.policy import Fcfs, Policy

VOCAB_SIZE = 97


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Of a recording; nothing is there yet."""
    return tmp_path / "run.glr"


@pytest.fixture
def make() -> Make:
    def make_engine(
        *,
        policy: Policy | None = None,
        num_pages: int = 64,
        page_size: int = 4,
        max_num_seqs: int = 8,
        max_num_batched_tokens: int = 64,
        max_num_queued_reqs: int = 100,
        max_num_queued_tokens: int = 10_000,
        max_plans_in_flight: int = 2,
        share_prefixes: bool = True,
        max_model_len: int = 200,
        length_bound: int = INT32_MAX,
    ) -> Engine:
        ready = WorkerReady(
            1,
            num_pages,
            page_size,
            max_num_seqs,
            max_num_batched_tokens,
            max_model_len,
            VOCAB_SIZE,
            length_bound,
        )
        limits = Limits(
            max_num_seqs,
            max_num_batched_tokens,
            max_num_queued_reqs,
            max_num_queued_tokens,
            max_plans_in_flight,
            share_prefixes,
        )
        return Engine(Scheduler(limits, policy or Fcfs(), ready), FakeWorker(ready))

    return make_engine
