"""The sequences that run, in the policy's order, and what they hold of the worker: slots and pages.

Knows no budget of tokens and no queue: who enters and who has to leave is decided elsewhere.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterator

from gllm.protocol.messages import PassedOver, WorkerReady
from gllm.scheduler.cache import Fit, KvCache
from gllm.scheduler.flight import Flight
from gllm.scheduler.growth import Growth
from gllm.scheduler.intake import Limits
from gllm.scheduler.policy import Policy
from gllm.scheduler.sequence import Sequence


class Running:
    """Each sequence has one slot, and pages for all tokens that are planned; the rest is free."""

    def __init__(self, policy: Policy, limits: Limits, worker: WorkerReady, flights: deque[Flight]) -> None:
        """`flights`: the plans in flight, from which a sequence that leaves is struck out."""
        self._policy = policy
        self._limits = limits
        self._flights = flights
        self._sequences: list[Sequence] = []
        self.growth = Growth()
        self.worker_ready(worker)

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    @property
    def last(self) -> Sequence:
        """The one that is the first to make room."""
        return self._sequences[-1]

    @property
    def num_free_slots(self) -> int:
        return len(self._free_slots)

    @property
    def num_reserved_pages(self) -> int:
        """Pages kept from the waiting for the growth of those that run; none by an empty engine.

        Without them a new prompt would take their next pages, to be preempted soon after.
        """
        expected = self.cache.num_pages_for(self.growth.num_expected_tokens)
        return max(expected, len(self._sequences)) if self._sequences else 0

    def lacks(self, fit: Fit) -> PassedOver | None:
        """What a waiting sequence that fits so still lacks to enter."""
        if not self._free_slots:
            return PassedOver.NO_SLOT
        if self.cache.pool.num_free_pages < fit.num_taken_pages + self.num_reserved_pages:
            return PassedOver.NO_PAGES
        return None

    def enter(self, sequence: Sequence, fit: Fit) -> None:
        """Give it a slot and its pages, which the caller knows to be there."""
        self.growth.num_allowed_tokens += sequence.max_len - len(sequence.tokens)
        sequence.slot = self._free_slots.pop()
        self.cache.enter(sequence, fit)
        insort(self._sequences, sequence, key=self._policy.order)

    def leave(self, sequence: Sequence) -> None:
        """Its rows in flight are struck, its slot and pages free at once."""
        self._sequences.remove(sequence)
        for flight in self._flights:
            flight.strike(sequence)
        self.growth.num_allowed_tokens -= sequence.max_len - len(sequence.tokens)
        self.released.append(sequence.slot)
        self._free_slots.append(sequence.slot)
        self.cache.leave(sequence)
        sequence.leave_slot()

    def worker_ready(self, worker: WorkerReady) -> None:
        """All slots and pages are those of `worker`, and free."""
        self.cache = KvCache(
            worker.num_pages, worker.page_size, self._limits.share_prefixes, worker.length_bound
        )
        self.num_slots = min(worker.num_slots, self._limits.max_num_seqs)
        self._free_slots = list(range(self.num_slots - 1, -1, -1))
        self.released: list[int] = []  # slots that the next plan tells the worker of

    def worker_lost(self) -> list[Sequence]:
        """Those that ran, none of which holds anything now."""
        lost, self._sequences = self._sequences, []
        for sequence in lost:
            sequence.leave_slot()
        self.growth.num_allowed_tokens = 0
        self.cache = self.cache.emptied()
        self.num_slots = 0  # so that nothing is planned meanwhile
        self._free_slots.clear()
        self.released.clear()
        return lost

    def check(self) -> None:
        """Raise unless the order is right and every slot and page is accounted for exactly once."""
        assert self._sequences == sorted(self._sequences, key=self._policy.order)
        assert sorted([s.slot for s in self._sequences] + self._free_slots) == list(range(self.num_slots))
        allowed = sum(sequence.max_len - len(sequence.tokens) for sequence in self._sequences)
        assert self.growth.num_allowed_tokens == allowed
        self.cache.pool.check(page for sequence in self._sequences for page in sequence.pages)
        for sequence in self._sequences:
            assert len(sequence.pages) >= self.cache.num_pages_for(sequence.num_planned_tokens)
