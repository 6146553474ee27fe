"""Who goes first, and how much of each kind of work a step takes.

A policy is a set of pure functions of a sequence or of the load; it never touches a sequence.
`waiting` and `running` are both kept in its order: the smaller goes first and is preempted last.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gllm.scheduler.sequence import Sequence

if TYPE_CHECKING:
    from gllm.config import SchedulerConfig

Order = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Load:
    """What a policy may look at when a step is planned."""

    max_num_batched_tokens: int
    max_plans_in_flight: int
    num_waiting_tokens: int  # prompt tokens of waiting and running sequences still to compute
    num_decodes: int  # running sequences that lack only their last token
    num_pages: int
    num_free_pages: int


class Policy(Protocol):
    """The one interface of all policies."""

    def order(self, sequence: Sequence) -> Order:
        """Place in the queue; constant over a sequence's life."""
        ...

    def outranks(self, waiting: Sequence, running: Sequence) -> bool:
        """Whether `waiting` may take the slot and the pages of `running`."""
        ...

    def max_prompt_tokens(self, load: Load) -> int:
        """Prompt tokens that this step may take at most."""
        ...

    def max_decodes(self, load: Load) -> int:
        """Decode rows that this step may take at most."""
        ...


@dataclass(frozen=True, slots=True)
class Fcfs:
    """First come, first served; every step takes what its budget holds, decodes before prompts.

    Source: Orca's iteration-level scheduling (OSDI '22) with the chunked prompts of Sarathi-Serve
    (OSDI '24). A preempted sequence keeps its arrival, so it is the next to run.
    """

    def order(self, sequence: Sequence) -> Order:
        return 0, sequence.arrival

    def outranks(self, waiting: Sequence, running: Sequence) -> bool:  # noqa: ARG002
        return False

    def max_prompt_tokens(self, load: Load) -> int:
        return load.max_num_batched_tokens

    def max_decodes(self, load: Load) -> int:
        return load.num_decodes


@dataclass(frozen=True, slots=True)
class Priority(Fcfs):
    """The request's `priority`, low value first, then arrival; a lower value preempts a higher one.

    Source: the direction and the tie rule are vLLM's `--scheduling-policy priority`.
    """

    def order(self, sequence: Sequence) -> Order:
        return sequence.priority, sequence.arrival

    def outranks(self, waiting: Sequence, running: Sequence) -> bool:
        return waiting.priority < running.priority


@dataclass(frozen=True, slots=True)
class TokenThrottling(Fcfs):
    """Prompt tokens follow the waiting work and the free KV cache; decodes are spread evenly.

    With WP prompt tokens waiting, a step takes WP / `iterations` of them (so that a burst is worked
    off over that many steps), scaled down as the free share of the cache falls to `free_threshold`,
    within [`min_tokens`, `max_tokens`]. Of the decodes, each of the plans in flight takes its share.

    Source: Token Throttling of the gLLM paper (SC '25, arXiv 2504.14775), equations for prefill
    (waiting tokens and KV utilisation) and decode; `minp`, `maxp`, `iterp`, `kvthresh` there.
    """

    min_tokens: int = 32
    max_tokens: int = 2048
    iterations: int = 8
    free_threshold: float = 0.05

    def max_prompt_tokens(self, load: Load) -> int:
        free = load.num_free_pages / load.num_pages
        scale = max(free - self.free_threshold, 0.0) / (1.0 - self.free_threshold)
        by_waiting = -(-load.num_waiting_tokens // self.iterations)
        wanted = min(by_waiting, int(self.max_tokens * scale))
        return max(min(wanted, self.max_tokens), self.min_tokens)

    def max_decodes(self, load: Load) -> int:
        return -(-load.num_decodes // load.max_plans_in_flight)


def policy_of(options: "SchedulerConfig") -> Policy:
    """The policy that a deployment asks for."""
    match options.policy:
        case "fcfs":
            return Fcfs()
        case "priority":
            return Priority()
        case "token_throttling":
            return TokenThrottling(
                options.throttling_min_tokens,
                options.throttling_max_tokens,
                options.throttling_iterations,
                options.throttling_free_threshold,
            )
