"""The worker process: takes plans, runs them in order, sends the sampled tokens.

A step is launched when its plan comes and answered when its tokens are on the host: on a device that runs
behind the host the next step is launched meanwhile; on a CPU a launch returns with the tokens.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import zmq

from gllm.checkpoint import CheckpointError
from gllm.process import PLANS, RESULTS, Child, StartError, run_child
from gllm.protocol.channel import Channel, hello
from gllm.protocol.messages import Hello, Role, StepPlan, StepResult, WorkerFailed, WorkerReady
from gllm.protocol.wire import INT32_MAX, ProtocolError
from gllm.timeline import drawn
from gllm.worker.timed import WorkerLane
from gllm.worker.under_way import Launched, UnderWay

if TYPE_CHECKING:
    from gllm.worker.runner import ModelRunner

log = logging.getLogger("gllm")


def main() -> None:
    # Threads that spin at a barrier would take the cores that scheduler and frontend need; OpenMP
    # reads this once, when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    run_child(Role.WORKER, work)


def work(child: Child) -> None:
    """The worker's life: load, say hello, serve plans until told to stop."""
    runner = _make_runner(child)
    plans = Channel.connect(child.context, zmq.PULL, child.address(PLANS))
    results = Channel.connect(child.context, zmq.PUSH, child.address(RESULTS))
    results.send(hello(Role.WORKER, child.epoch))
    results.send(_ready(child.epoch, runner))
    child.ready()
    with drawn(child.config.observability.trace_file, child.run_dir, Role.WORKER) as timeline:
        serve(child, runner, plans, results, None if timeline is None else WorkerLane(timeline))
    plans.close()
    results.close()


def serve(
    child: Child, runner: "ModelRunner", plans: Channel, results: Channel, lane: WorkerLane | None
) -> None:
    """Launch what is planned, answer what is home, until the launcher says stop."""
    under_way = UnderWay(runner.max_steps_under_way)
    poller = zmq.Poller()
    poller.register(child.control.socket, zmq.POLLIN)
    poller.register(under_way.woken, zmq.POLLIN)
    idle_since = time.monotonic_ns()
    while not child.is_told_to_stop():
        # A plan too early stays in its socket. One that is there is run without asking the poller, which
        # is time between two steps.
        plan = _take(plans, child.epoch) if under_way.has_room else None
        if plan is None:
            poller.register(plans.socket, zmq.POLLIN if under_way.has_room else 0)
            if under_way.woken.fileno() in dict(poller.poll()):
                under_way.hush()
        else:
            start = time.monotonic_ns()
            idle = 0 if under_way else max(start - idle_since, 0)
            with _failure_told(plan, results):
                under_way.add(Launched(plan, runner.launch(plan), start, idle))
        while (step := under_way.oldest_home()) is not None:
            with _failure_told(step.plan, results):
                result = _result(step, idle_since)
            results.send(result)
            idle_since = time.monotonic_ns()
            if lane is not None:  # behind the result, for which somebody waits
                lane.draw(step.plan, result, runner.forward_end_ns)


def _result(step: Launched, last_end_ns: int) -> StepResult:
    """The answer to a step that is home. It began when its plan was taken up, or behind the step before."""
    start_ns = max(step.start_ns, last_end_ns)
    result = step.output.take().result_of(step.plan)
    result.start_ns, result.end_ns, result.idle_ns = start_ns, time.monotonic_ns(), step.idle_ns
    return result


def _make_runner(child: Child) -> "ModelRunner":
    # Here and not above, since importing these imports torch, which must see main's environment.
    from gllm.worker.memory import MemoryPlanError
    from gllm.worker.options import WorkerOptions
    from gllm.worker.platform import PlatformError
    from gllm.worker.start import make_runner

    try:
        return make_runner(WorkerOptions.of(child.config))
    except (CheckpointError, MemoryPlanError, PlatformError) as error:
        raise StartError(str(error)) from error


def _ready(epoch: int, runner: "ModelRunner") -> WorkerReady:
    slots = runner.slots
    return WorkerReady(
        epoch=epoch,
        num_pages=slots.pool_pages,
        page_size=slots.page_size,
        num_slots=slots.num_slots,
        max_num_batched_tokens=runner.max_num_batched_tokens,
        max_model_len=slots.max_model_len,
        vocab_size=slots.vocab_size,
        length_bound=runner.model.facts.rotary.length_bound or INT32_MAX,
    )


def _take(plans: Channel, epoch: int) -> StepPlan | None:
    """The next plan, if one is there and meant for this start of the worker."""
    message = plans.receive(timeout_s=0)
    if isinstance(message, StepPlan):
        return message if message.epoch == epoch else None
    if message is None or isinstance(message, Hello):
        return None
    raise ProtocolError(f"expected a plan, got {type(message).__name__}")


@contextmanager
def _failure_told(plan: StepPlan, results: Channel) -> Iterator[None]:
    """A worker that cannot compute a plan says so and ends."""
    try:
        yield
    except Exception as error:
        # Sentences of our own only: what libraries say may hold paths and addresses.
        sentence = str(error) if type(error).__module__.startswith("gllm.") else type(error).__name__
        results.send(WorkerFailed(plan.epoch, plan.step, f"step {plan.step} failed: {sentence}"[:4000]))
        results.socket.close(linger=2000)  # the one message that must leave before we do
        raise


if __name__ == "__main__":
    main()
