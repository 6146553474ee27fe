"""The sequences that wait, in the policy's order, and why the first of them still does."""

from bisect import insort
from collections.abc import Iterator

from gllm.protocol.messages import PassedOver
from gllm.scheduler.policy import Policy
from gllm.scheduler.sequence import NO_SLOT, Sequence


class Waiting:
    """A queue that keeps its order, whoever enters."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._sequences: list[Sequence] = []
        self.num_tokens = 0
        self.passed_over = [0] * len(PassedOver)  # sequence-steps, by reason

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def first(self) -> Sequence | None:
        """The first that may be let in. Who waits for a mask holds up nobody behind it."""
        return next((sequence for sequence in self._sequences if not sequence.awaits_mask), None)

    def add(self, sequence: Sequence) -> None:
        insort(self._sequences, sequence, key=self._policy.order)
        self.num_tokens += len(sequence.tokens)

    def remove(self, sequence: Sequence) -> None:
        self._sequences.remove(sequence)
        self.num_tokens -= len(sequence.tokens)

    def pass_over(self, reason: PassedOver | None) -> None:
        """The first one did not get into this step for that reason (None: there is none that might
        have), those before it because they wait for a mask, and those behind it because of it."""
        for num_before, sequence in enumerate(self._sequences):
            if sequence.awaits_mask:
                sequence.passed_over[PassedOver.NO_MASK] += 1
                self.passed_over[PassedOver.NO_MASK] += 1
            elif reason is not None:
                sequence.passed_over[reason] += 1
                self.passed_over[reason] += 1
                self.passed_over[PassedOver.BEHIND] += len(self._sequences) - num_before - 1
                return

    def check(self) -> None:
        """Raise unless the order and the count of tokens are right."""
        assert self._sequences == sorted(self._sequences, key=self._policy.order)
        assert self.num_tokens == sum(len(sequence.tokens) for sequence in self._sequences)
        assert all(sequence.slot == NO_SLOT for sequence in self._sequences)
