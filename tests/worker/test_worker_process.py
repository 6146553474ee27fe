"""The worker as a process, with the test in the places of launcher and scheduler."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_checkpoint
import zmq

from gllm.config import DeploymentConfig
from gllm.process import CONFIG_FILE, CONTROL, PLANS, RESULTS
from gllm.protocol.channel import Channel, Server, endpoint
from gllm.protocol.messages import (
    Admit,
    Failed,
    Hello,
    Message,
    Ready,
    Role,
    Sampling,
    StepPlan,
    StepResult,
    Stop,
    WorkerFailed,
    WorkerReady,
)
from gllm.protocol.wire import column

EPOCH = 3
TIMEOUT_S = 60
NUM_WAITING = 3000  # plans, which take seconds


class World:
    """Everything around one worker process."""

    def __init__(self, run_dir: Path, model: Path) -> None:
        config = DeploymentConfig.model_validate(
            {
                "model": {"path": str(model)},
                "scheduler": {"max_num_seqs": 4, "max_num_batched_tokens": 64},
                "worker": {"page_size": 4, "num_pages": 40, "num_threads": 1},
            }
        )
        (run_dir / CONFIG_FILE).write_text(config.to_json())
        self.context = zmq.Context()
        self.control = Server(self.context, endpoint(run_dir, CONTROL))
        self.plans = Channel.bind(self.context, zmq.PUSH, endpoint(run_dir, PLANS))
        self.results = Channel.bind(self.context, zmq.PULL, endpoint(run_dir, RESULTS))
        lifeline, self.lifeline = os.pipe()
        command = [sys.executable, "-m", "gllm.worker.main", str(run_dir)]
        self.process = subprocess.Popen(
            [*command, "--epoch", str(EPOCH), "--lifeline", str(lifeline)], pass_fds=[lifeline]
        )
        os.close(lifeline)

    def told(self) -> Message:
        """The worker's next word to the launcher."""
        received = self.control.receive(TIMEOUT_S)
        assert received is not None
        self.peer, message = received
        return message

    def result(self) -> Message | None:
        return self.results.receive(TIMEOUT_S)

    def start(self) -> WorkerReady:
        assert isinstance(self.told(), Hello)
        assert isinstance(self.told(), Ready)
        hello, ready = self.result(), self.result()
        assert isinstance(hello, Hello)
        assert (hello.role, hello.epoch) == (Role.WORKER, EPOCH)
        assert isinstance(ready, WorkerReady)
        return ready

    def close(self) -> None:
        os.close(self.lifeline)
        self.process.wait(TIMEOUT_S)
        self.context.destroy(linger=0)


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    model = tmp_path / "model"
    if getattr(request, "param", True):
        tiny_checkpoint.write(model)
    run_dir = tmp_path / "r"
    run_dir.mkdir()
    world = World(run_dir, model)
    yield world
    world.close()


def admit(slot: int, tokens: list[int], pages: list[int]) -> Admit:
    return Admit(slot, column(tokens), len(tokens), 0, column(pages), Sampling(0.0, 0, 1.0, 0))


def plan(
    step: int, slots: list[int], *, counts: tuple[int, ...] = (), epoch: int = EPOCH, **more
) -> StepPlan:
    fields = {"page_slots": column(), "new_pages": column(), "admits": [], "released": column()} | more
    return StepPlan(epoch=epoch, step=step, slots=column(slots), counts=column(counts), **fields)


def test_a_worker_says_its_limits_computes_plans_and_stops_when_told(world: World) -> None:
    ready = world.start()
    assert ready == WorkerReady(EPOCH, 40, 4, 4, 64, 128, 67)
    world.plans.send(plan(7, [1], epoch=EPOCH - 1))  # of the worker before: must be dropped
    before = time.monotonic_ns()
    first = plan(0, [1, 2], counts=(3, 2), admits=[admit(1, [5, 6, 7], [3]), admit(2, [1, 2, 3], [9])])
    world.plans.send(first)
    world.plans.send(plan(1, [1, 2]))  # both in flight: the second needs the first's token
    results = [world.result(), world.result()]
    assert all(isinstance(result, StepResult) for result in results)
    assert [(r.epoch, r.step, len(r.tokens)) for r in results] == [(EPOCH, 0, 1), (EPOCH, 1, 2)]
    assert before < results[0].start_ns < results[0].end_ns <= results[1].start_ns < results[1].end_ns
    assert results[0].idle_ns > 0
    world.control.send(world.peer, Stop())
    assert world.process.wait(TIMEOUT_S) == 0


def test_a_worker_stops_between_two_steps_though_plans_wait(world: World) -> None:
    world.start()
    tokens, pages = [5] * 64, list(range(16))
    for step in range(NUM_WAITING):
        admits, released = [admit(0, tokens, pages)], column([0] if step else [])
        world.plans.send(plan(step, [0], counts=(64,), admits=admits, released=released))
    assert isinstance(world.result(), StepResult)
    world.control.send(world.peer, Stop())
    assert world.process.wait(TIMEOUT_S) == 0
    num_answered = 1
    while world.results.receive(0.2) is not None:
        num_answered += 1
    assert num_answered < NUM_WAITING / 2


def test_a_worker_without_plans_takes_no_processor_time(world: World) -> None:
    world.start()
    ticks = _ticks(world.process.pid)
    time.sleep(1.0)
    assert _ticks(world.process.pid) - ticks <= 2  # of 100 a second


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_a_plan_that_contradicts_the_tables_ends_the_worker_with_a_sentence(world: World) -> None:
    world.start()
    world.plans.send(plan(5, [2]))
    failed = world.result()
    assert isinstance(failed, WorkerFailed)
    assert (failed.epoch, failed.step) == (EPOCH, 5)
    assert "slot [2], of which one is not in use" in failed.sentence
    assert isinstance(world.told(), Failed)
    assert world.process.wait(TIMEOUT_S) == 1


@pytest.mark.parametrize("world", [False], indirect=True)
def test_a_worker_without_a_model_says_so_and_ends(world: World) -> None:
    assert isinstance(world.told(), Hello)
    failed = world.told()
    assert isinstance(failed, Failed)
    assert "is not a directory" in failed.sentence
    assert world.process.wait(TIMEOUT_S) == 1


def test_a_worker_ends_when_its_launcher_is_gone(world: World) -> None:
    world.start()
    world.lifeline, gone = os.open("/dev/null", os.O_RDONLY), world.lifeline
    os.close(gone)
    assert world.process.wait(TIMEOUT_S) == 1
