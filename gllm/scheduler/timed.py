"""The scheduler process with every plan and commit in the timeline.

A class of its own, so that the loop costs nothing where no timeline is wanted.
"""

import time

from gllm.process import Child
from gllm.protocol.messages import StepPlan, StepResult
from gllm.scheduler.main import SchedulerProcess
from gllm.timeline import Timeline

LANE = "scheduler"


class TimedSchedulerProcess(SchedulerProcess):
    def __init__(self, child: Child, timeline: Timeline) -> None:
        super().__init__(child)
        self._timeline = timeline

    def _plan(self) -> StepPlan | None:
        start = time.monotonic_ns()
        plan = super()._plan()
        if plan is not None:
            num_tokens = sum(plan.counts) or len(plan.slots)
            self._timeline.add(
                LANE, f"schedule {plan.step}", start, time.monotonic_ns(),
                step=plan.step, rows=len(plan.slots), tokens=num_tokens,
            )  # fmt: skip
        return plan

    def _commit(self, result: StepResult) -> None:
        start = time.monotonic_ns()
        super()._commit(result)
        end = time.monotonic_ns()
        self._timeline.add(LANE, f"commit {result.step}", start, end, step=result.step)
