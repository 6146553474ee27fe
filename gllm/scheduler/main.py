"""The scheduler process: the only place that polls. Requests in, plans out, results in, tokens out.

Knows sockets and the clock; decides nothing, that is `core`'s.
"""

import logging
import time

import zmq

from gllm.process import FRONTENDS, PLANS, RESULTS, Child, StartError, run_child
from gllm.protocol.channel import Channel, PeerGone, Server
from gllm.protocol.messages import (
    Cancel,
    Hello,
    ListRequests,
    Masks,
    Message,
    PrefixCacheReset,
    Report,
    ResetPrefixCache,
    Role,
    SchedulerReady,
    StatsRequest,
    StepPlan,
    StepResult,
    Submit,
    WorkerFailed,
    WorkerReady,
)
from gllm.protocol.wire import ProtocolError
from gllm.scheduler.core import Scheduler
from gllm.scheduler.intake import Limits
from gllm.scheduler.listing import listed
from gllm.scheduler.policy import policy_of
from gllm.scheduler.record import recorded
from gllm.scheduler.reports import Reports
from gllm.scheduler.step_meters import StepMeters
from gllm.timeline import drawn

log = logging.getLogger("gllm")

CONNECT_TIMEOUT_S = 10


class SchedulerProcess:
    """The sockets around one `Scheduler`."""

    def __init__(self, child: Child) -> None:
        options = child.config.scheduler
        self.child = child
        self.max_plans_in_flight = options.micro_batches
        self.limits = Limits.of(options)
        self.frontends = Server(child.context, child.address(FRONTENDS))
        self.plans = Channel.bind(child.context, zmq.PUSH, child.address(PLANS))
        self.results = Channel.bind(child.context, zmq.PULL, child.address(RESULTS))
        self.meters = StepMeters()
        self.reports = Reports()
        self.poller = zmq.Poller()
        for socket in (child.control.socket, self.frontends.socket, self.results.socket):
            self.poller.register(socket, zmq.POLLIN)

    def run(self) -> None:
        """Serve until the launcher says stop."""
        worker = self._wait_for_worker()
        if worker is None:
            return
        core = self.scheduler = Scheduler(self.limits, policy_of(self.child.config.scheduler), worker)
        self.frontend_ready = SchedulerReady(
            worker.max_model_len, worker.num_pages, worker.page_size, worker.vocab_size
        )
        with recorded(core, self.child.config.observability) as self.core:
            self.poller.register(self.frontends.socket, zmq.POLLIN)
            self.child.ready()
            while not self.child.is_told_to_stop():
                self._take_requests()
                self._commit_finished_steps()
                self._expire()
                self._plan_ahead()
                self.poller.poll()

    def _wait_for_worker(self) -> WorkerReady | None:
        """The worker's first words; None if the launcher says stop before."""
        # Frontends that are early wait in their socket: without a worker there are no limits to tell.
        self.poller.unregister(self.frontends.socket)
        while not self.child.is_told_to_stop():
            self.poller.poll()
            while (message := self.results.receive(timeout_s=0)) is not None:
                if isinstance(message, WorkerReady):
                    self._wait_for_plan_channel()
                    return message
                if isinstance(message, WorkerFailed):
                    raise StartError(message.sentence)
        return None

    def _wait_for_plan_channel(self) -> None:
        """The worker's two connections are made one by one: its word may come before its ear."""
        if not self.plans.socket.poll(CONNECT_TIMEOUT_S * 1000, zmq.POLLOUT):
            raise StartError(f"the worker did not connect for plans within {CONNECT_TIMEOUT_S} s")

    def _take_requests(self) -> None:
        """Submissions, cancels and questions of every frontend."""
        while True:
            try:
                received = self.frontends.receive(timeout_s=0)
            except ProtocolError as error:
                log.error("a frontend sent something that is no message: %s", error)
                continue
            if received is None:
                return
            self._take_request(*received)

    def _take_request(self, frontend: bytes, message: Message) -> None:
        match message:
            case Hello():
                self._answer(frontend, self.frontend_ready)
            case Submit():
                rejected = self.core.submit(frontend, message, time.monotonic())
                if rejected is not None:
                    self._answer(frontend, rejected)
            case Masks():
                for mask in message.masks:
                    rejected = self.core.mask(frontend, mask)
                    if rejected is not None:
                        self._answer(frontend, rejected)
            case Cancel():
                self.core.cancel(frontend, message.request_ids, message.outputs)
            case StatsRequest():
                stats = self.core.stats(time.monotonic())
                stats.series = self.reports.with_own(self.meters.series())
                self._answer(frontend, stats)
            case Report():
                self.reports.take(frontend, message)
            case ListRequests():
                self._answer(frontend, listed(self.scheduler, message, time.monotonic()))
            case ResetPrefixCache():
                self._answer(frontend, PrefixCacheReset(message.question, self.core.reset_prefix_cache()))
            case _:
                log.error("a frontend sent a %s, which is not its to send", type(message).__name__)

    def _commit_finished_steps(self) -> None:
        """New tokens to their frontends."""
        while (message := self.results.receive(timeout_s=0)) is not None:
            if isinstance(message, WorkerFailed):
                raise StartError(message.sentence)
            if isinstance(message, StepResult):
                self._commit(message)

    def _commit(self, result: StepResult) -> None:
        came_ns = time.monotonic_ns()
        for frontend, tokens in self.core.commit(result, time.monotonic()).items():
            self._answer(frontend, tokens)
        is_over = not (self.scheduler.running or self.scheduler.waiting)
        self.meters.committed(result, came_ns, time.monotonic_ns(), is_over)

    def _expire(self) -> None:
        """Tell those whose deadline passed; who waits, waits beside running steps that wake this loop."""
        for frontend, rejected in self.core.expire(time.monotonic()):
            self._answer(frontend, rejected)

    def _plan_ahead(self) -> None:
        """Keep the worker supplied: it must never wait for a plan."""
        while len(self.core.flights) < self.max_plans_in_flight:
            if self._plan() is None:
                return

    def _plan(self) -> StepPlan | None:
        """The next plan, on its way to the worker; None if there is nothing to do, or no worker."""
        began_ns = time.monotonic_ns()
        plan = self.core.plan(time.monotonic())
        if plan is None:
            return None
        try:
            self.plans.send(plan)
            self.meters.planned(plan, began_ns, time.monotonic_ns())
        except PeerGone:
            # The launcher sees that, too, and decides; the sequences keep their tokens here.
            log.error("the worker is gone: its running sequences wait again")
            self.core.worker_lost()
            self.meters.worker_lost()
            return None
        return plan

    def _answer(self, frontend: bytes, message: Message) -> None:
        try:
            self.frontends.send(frontend, message)
        except PeerGone:
            self.core.frontend_lost(frontend)
            self.reports.frontend_lost(frontend)


def main() -> None:
    run_child(Role.SCHEDULER, run)


def run(child: Child) -> None:
    """The scheduler's life."""
    from gllm.scheduler.timed import TimedSchedulerProcess  # it is made of this module

    with drawn(child.config.observability.trace_file, child.run_dir, Role.SCHEDULER) as timeline:
        process = SchedulerProcess(child) if timeline is None else TimedSchedulerProcess(child, timeline)
        process.run()


if __name__ == "__main__":
    main()
