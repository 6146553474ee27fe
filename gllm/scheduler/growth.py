"""How many tokens the running sequences will still bring, learnt from those that ended.

A prompt that is let in on the last free pages is soon preempted and computed again. So some pages
are kept for what already runs: the share of its allowance that a sequence has used up on average,
applied to what the running ones may still generate.
"""

START = 0.3  # before anything has ended
WEIGHT = 0.05  # of each newly ended sequence in the average
# Sequences end while others grow and give their pages back: not all of the growth is there at once.
OVERLAP = 0.5


class Growth:
    """A running average of generated over allowed tokens."""

    def __init__(self) -> None:
        self.share = START
        self.num_allowed_tokens = 0  # what the running sequences may still generate

    def observe(self, num_generated: int, num_allowed: int) -> None:
        """A sequence ended by itself after `num_generated` of `num_allowed` tokens."""
        self.share += WEIGHT * (num_generated / num_allowed - self.share)

    @property
    def num_expected_tokens(self) -> int:
        """Tokens to keep room for."""
        return int(OVERLAP * self.share * self.num_allowed_tokens)
