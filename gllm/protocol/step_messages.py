"""Scheduler and worker: plans, results, and the worker's own state.

Sampled tokens, positions and whole page tables never travel to the worker: it has them.
"""

from gllm.protocol.base import MAX_PAGES, MAX_SENTENCE, MAX_SEQUENCES, MAX_TOKENS, Message, message
from gllm.protocol.logits import Logprobs, PromptLogprobs
from gllm.protocol.request_messages import Sampling
from gllm.protocol.wire import (
    INT32_MAX,
    INT64_MAX,
    Bytes,
    Column,
    Int,
    Ints,
    Many,
    Maybe,
    Nested,
    ProtocolError,
    Record,
    Text,
    column,
    record,
    wire,
)

MAX_PLAN_MASK_BYTES = 1 << 29


@record
class Admit(Record):
    """A sequence enters a slot: what the worker must know of it, once."""

    slot: int = wire(Int(0, MAX_SEQUENCES - 1))
    tokens: "Column[int]" = wire(Ints(MAX_TOKENS))  # prompt and, after a preemption, what followed
    num_prompt_tokens: int = wire(Int(1))  # the leading ones; penalties tell them from the others
    num_computed_tokens: int = wire(Int())  # whose keys and values the given pages already hold
    pages: "Column[int]" = wire(Ints(MAX_PAGES))
    sampling: Sampling = wire(Nested(Sampling))

    def check(self) -> None:
        if self.num_computed_tokens >= len(self.tokens):
            raise ProtocolError("an admitted sequence must have at least one token to compute")
        if self.num_prompt_tokens > len(self.tokens):
            raise ProtocolError(f"{self.num_prompt_tokens} prompt tokens among {len(self.tokens)}")


@message(20)
class StepPlan(Message):
    """One micro-batch. Applied in this order: `released`, `admits`, new pages, then the rows.

    A row computes `counts[i]` tokens of the sequence in `slots[i]` (`counts` empty: one each), and
    yields a sampled token when these reach the end of what the sequence has.
    """

    epoch: int = wire(Int())
    step: int = wire(Int(0, INT64_MAX))
    slots: "Column[int]" = wire(Ints(MAX_SEQUENCES))
    counts: "Column[int]" = wire(Ints(MAX_SEQUENCES))
    page_slots: "Column[int]" = wire(Ints(MAX_PAGES))  # slot page_slots[i] ...
    new_pages: "Column[int]" = wire(Ints(MAX_PAGES))  # ... gets page new_pages[i] behind its others
    admits: list[Admit] = wire(Many(Nested(Admit), MAX_SEQUENCES))
    released: "Column[int]" = wire(Ints(MAX_SEQUENCES))
    masked_rows: "Column[int]" = wire(Ints(MAX_SEQUENCES), default_factory=column)  # rows that sample ...
    masks: bytes = wire(Bytes(MAX_PLAN_MASK_BYTES), default_factory=bytes)  # ... by these masks, each as long

    def check(self) -> None:
        if len(self.masks) % max(len(self.masked_rows), 1) or bool(self.masks) != bool(self.masked_rows):
            raise ProtocolError("masks of a plan must be equally long, one a masked row")
        if len(self.counts) not in (0, len(self.slots)):
            raise ProtocolError("counts of a plan must be empty or one a row")
        if len(self.page_slots) != len(self.new_pages):
            raise ProtocolError("page_slots and new_pages of a plan differ in length")


@message(21)
class StepResult(Message):
    """The sampled tokens of one plan, one per sampling row in plan order.

    Times are CLOCK_MONOTONIC nanoseconds, comparable between processes of one host: when the
    worker took the plan up, or had the step before behind it if that was later, and when its tokens
    were on the host; `idle_ns` is how long the worker had waited for the plan.
    """

    epoch: int = wire(Int())
    step: int = wire(Int(0, INT64_MAX))
    tokens: "Column[int]" = wire(Ints(MAX_SEQUENCES))
    start_ns: int = wire(Int(0, INT64_MAX))
    end_ns: int = wire(Int(0, INT64_MAX))
    idle_ns: int = wire(Int(0, INT64_MAX))
    logprobs: Logprobs | None = wire(Maybe(Nested(Logprobs)), default_factory=type(None))  # of some tokens
    prompt_logprobs: list[PromptLogprobs] = wire(  # of some rows
        Many(Nested(PromptLogprobs), MAX_SEQUENCES), default_factory=list
    )

    def check(self) -> None:
        if self.logprobs is not None and any(place >= len(self.tokens) for place in self.logprobs.places):
            raise ProtocolError("log-probabilities of a token beyond those of the step")


@message(22)
class WorkerReady(Message):
    """What the worker's memory and model allow.

    Keys and values of a prompt longer than `length_bound` depend on the prompt's length as well, so that
    its pages serve prompts of the same length alone; in most models none do.
    """

    epoch: int = wire(Int())
    num_pages: int = wire(Int(1))
    page_size: int = wire(Int(1))
    num_slots: int = wire(Int(1, MAX_SEQUENCES))
    max_num_batched_tokens: int = wire(Int(1))
    max_model_len: int = wire(Int(1))
    vocab_size: int = wire(Int(1))
    length_bound: int = wire(Int(1), default=INT32_MAX)


@message(23)
class WorkerFailed(Message):
    """The worker cannot go on; `step` is the plan at which it failed."""

    epoch: int = wire(Int())
    step: int = wire(Int(0, INT64_MAX))
    sentence: str = wire(Text(MAX_SENTENCE))
