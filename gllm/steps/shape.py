"""What a step computes, in the numbers that its duration depends on. Knows nothing of how long it takes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepShape:
    """One micro-batch."""

    num_tokens: int  # of all rows
    num_rows: int
    num_chunks: int  # of these, rows of several tokens
    num_sampled: int  # rows that yield a token
    num_context_tokens: int  # whose keys and values the rows read, their own included
    num_pairs: int  # of a query and a key that it attends to
