"""The worker's lane in the timeline: one block a micro-batch, and when its forward pass ended.

A step that was launched behind another one begins when that one ends. Knows results, not how they came.
"""

from gllm.protocol.messages import Role, StepPlan, StepResult
from gllm.timeline import Timeline


class WorkerLane:
    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._last_end_ns = 0

    def draw(self, plan: StepPlan, result: StepResult, forward_end_ns: int) -> None:
        """forward_end_ns: outside of the step where the runner does not tell the two parts apart."""
        start, end = max(result.start_ns, self._last_end_ns), result.end_ns
        split = {}
        if start < forward_end_ns <= end:
            split = {"forward_ns": forward_end_ns - start, "sample_ns": end - forward_end_ns}
        num_tokens = sum(plan.counts) or len(plan.slots)
        self._timeline.add(
            Role.WORKER, f"step {plan.step}", start, end,
            step=plan.step, rows=len(plan.slots), tokens=num_tokens, **split,
        )  # fmt: skip
        self._last_end_ns = end
