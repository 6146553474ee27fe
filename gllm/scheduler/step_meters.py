"""How long the steps take, and where: fed by the scheduler's loop, some values a step.

All times are CLOCK_MONOTONIC nanoseconds, which scheduler and worker share on one host. Knows plans and
results by their times alone.
"""

from collections import deque
from dataclasses import dataclass

from gllm.meters import Meters
from gllm.protocol.messages import Series, StepPlan, StepResult


@dataclass(slots=True)
class _Sent:
    """A plan whose result has not come. follows: there has been work ever since the plan before it."""

    sent_ns: int
    plan_ns: int
    num_tokens: int
    follows: bool


class StepMeters:
    """The scheduler's own meters."""

    def __init__(self) -> None:
        self._meters = Meters()
        self._in_flight: deque[_Sent] = deque()
        self._has_work = False
        self._step = self._meters.distribution("scheduler_step_seconds")
        self._to_worker = self._meters.distribution("zmq_hop_seconds", "plan")
        self._to_scheduler = self._meters.distribution("zmq_hop_seconds", "result")
        self._tokens = self._meters.distribution("iteration_tokens_total")
        for name in ("pipeline_bubble_seconds", "worker_idle_seconds", "worker_busy_seconds"):
            self._meters.count(name, by=0)

    def planned(self, plan: StepPlan, began_ns: int, sent_ns: int) -> None:
        """A plan was made from `began_ns` on and is on its way."""
        num_tokens = sum(plan.counts) if plan.counts else len(plan.slots)
        self._in_flight.append(_Sent(sent_ns, sent_ns - began_ns, num_tokens, follows=self._has_work))
        self._has_work = True

    def committed(self, result: StepResult, came_ns: int, done_ns: int, is_over: bool) -> None:
        """The oldest plan's result came and was passed on. is_over: no sequence is left."""
        if not self._in_flight:
            return  # of a worker that was lost
        sent = self._in_flight.popleft()
        self._step.add((sent.plan_ns + done_ns - came_ns) / 1e9)
        self._tokens.add(sent.num_tokens)
        # A plan that came while the worker was busy lay in the socket: it was under way until the worker
        # was free to take it.
        left_ns = max(sent.sent_ns, result.start_ns - result.idle_ns)
        self._to_worker.add(max(result.start_ns - left_ns, 0) / 1e9)
        self._to_scheduler.add(max(came_ns - result.end_ns, 0) / 1e9)
        self._meters.count("worker_busy_seconds", by=max(result.end_ns - result.start_ns, 0) / 1e9)
        self._meters.count("worker_idle_seconds", by=result.idle_ns / 1e9)
        if sent.follows:
            self._meters.count("pipeline_bubble_seconds", by=result.idle_ns / 1e9)
        if is_over and not self._in_flight:
            self._has_work = False

    def worker_lost(self) -> None:
        """No result of the plans in flight will come."""
        self._in_flight.clear()
        self._has_work = False

    def series(self) -> list[Series]:
        return self._meters.series()
