"""Who goes first: a policy is a pure function from a sequence to its place in the order.

The smaller key runs first and is preempted last. `waiting` and `running` are both kept in this
order.
"""

from gllm.scheduler.sequence import Sequence


def fcfs(sequence: Sequence) -> int:
    """First come, first served. A preempted sequence keeps its arrival, so it is the next to run."""
    return sequence.arrival
