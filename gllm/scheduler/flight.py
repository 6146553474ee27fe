"""A step while it is put together, and while its result has not come."""

from dataclasses import dataclass, field

from gllm.protocol.messages import Admit, StepPlan
from gllm.protocol.wire import column
from gllm.scheduler.sequence import Sequence


@dataclass(slots=True)
class Flight:
    """A plan whose result has not come. A row is struck out (None) when its sequence has left."""

    step: int
    planned_at: float  # seconds, the caller's clock
    rows: list[Sequence | None] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # tokens of each row
    samples: list[bool] = field(default_factory=list)  # whether the row yields a token

    def add(self, sequence: Sequence, count: int, samples: bool) -> None:
        self.rows.append(sequence)
        self.counts.append(count)
        self.samples.append(samples)

    def strike(self, sequence: Sequence) -> None:
        """Let the result pass by `sequence`, which has at most one row in a plan."""
        if sequence in self.rows:
            self.rows[self.rows.index(sequence)] = None

    def tokens_of(self, sequence: Sequence) -> tuple[int, int]:
        """Tokens that this plan computes and samples for `sequence`."""
        for row, count, samples in zip(self.rows, self.counts, self.samples, strict=True):
            if row is sequence:
                return count, int(samples)
        return 0, 0


@dataclass(slots=True)
class Draft:
    """A micro-batch while it is being put together, and what it adds to the scheduler's counts."""

    flight: Flight
    budget: int  # tokens that it may still take
    prompt_budget: int = 0  # of these, tokens of prompts
    admits: list[Admit] = field(default_factory=list)
    page_slots: list[int] = field(default_factory=list)
    new_pages: list[int] = field(default_factory=list)
    preempted: bool = False  # somebody had to make room for a decode
    masked_rows: list[int] = field(default_factory=list)
    masks: list[bytes] = field(default_factory=list)  # of those rows
    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    num_prefix_query_tokens: int = 0
    num_prefix_hit_tokens: int = 0

    def add_mask(self, sequence: Sequence) -> None:
        """The row that is added next samples, as the mask of `sequence` allows."""
        self.masked_rows.append(len(self.flight.rows))
        self.masks.append(sequence.mask)

    def plan(self, epoch: int, released: list[int]) -> StepPlan:
        """What the worker of that epoch is told; `released`: slots that were given up since the last plan."""
        rows, counts = self.flight.rows, self.flight.counts
        return StepPlan(
            epoch=epoch,
            step=self.flight.step,
            slots=column([sequence.slot for sequence in rows if sequence is not None]),
            counts=column(counts if sum(counts) > len(counts) else ()),
            page_slots=column(self.page_slots),
            new_pages=column(self.new_pages),
            admits=self.admits,
            released=column(released),
            masked_rows=column(self.masked_rows),
            masks=b"".join(self.masks),
        )
