"""What each step computes, followed from plans alone.

Knows a worker's bookkeeping of slots, nothing of how long anything takes.
"""

import numpy as np

from gllm.protocol.messages import StepPlan
from gllm.steps.shape import StepShape


class SlotTable:
    """How far the sequence in each slot is computed, as a worker knows it."""

    def __init__(self, num_slots: int) -> None:
        self._num_tokens = np.zeros(num_slots, np.int64)
        self._num_computed = np.zeros(num_slots, np.int64)

    def take(self, plan: StepPlan) -> StepShape:
        """The shape of the next step, which moves the table on."""
        for admit in plan.admits:
            self._num_tokens[admit.slot] = len(admit.tokens)
            self._num_computed[admit.slot] = admit.num_computed_tokens
        slots = np.frombuffer(plan.slots, np.int32)
        starts = self._num_computed[slots]
        if plan.counts:
            counts = np.frombuffer(plan.counts, np.int32).astype(np.int64)
            ends = starts + counts
            num_tokens, num_chunks = int(counts.sum()), int(np.count_nonzero(counts > 1))
            num_pairs = int((counts * (starts + ends + 1)).sum()) // 2
        else:
            ends = starts + 1
            num_tokens, num_chunks = len(slots), 0
            num_pairs = int(ends.sum())
        sampling = ends == self._num_tokens[slots]
        self._num_computed[slots] = ends
        self._num_tokens[slots] += sampling
        return StepShape(
            num_tokens=num_tokens,
            num_rows=len(slots),
            num_chunks=num_chunks,
            num_sampled=int(np.count_nonzero(sampling)),
            num_context_tokens=int(ends.sum()),
            num_pairs=num_pairs,
        )
