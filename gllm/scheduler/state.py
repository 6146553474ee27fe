"""The core's whole state as records: all that decides what a `Scheduler` does next.

Whatever order decides anything later is kept: of requests, of the stacks of free slots and pages,
of the cached pages. What can be derived is not stored: who holds a page, who runs and who waits,
the keys of a sequence's pages. Knows the fields and their ranges, not how they get in and out.
"""

from gllm.protocol.messages import (
    MAX_MASK_BYTES,
    MAX_PAGES,
    MAX_SEQUENCES,
    MAX_STOP_IDS,
    MAX_TOKENS,
    PassedOver,
    Sampling,
)
from gllm.protocol.messages import MAX_NAME as MAX_REQUEST_NAME
from gllm.protocol.wire import (
    INT32_MAX,
    INT64_MAX,
    Bytes,
    Column,
    Flag,
    Float,
    Int,
    Ints,
    Many,
    Maybe,
    Nested,
    ProtocolError,
    Record,
    Text,
    record,
    wire,
)
from gllm.scheduler.intake import Limits
from gllm.scheduler.kinds import SECONDS, PolicyKind, Settings
from gllm.scheduler.policy import Policy
from gllm.scheduler.prefix import KEY_BYTES
from gllm.scheduler.sequence import NO_SLOT

MAX_NAME = 255  # bytes of a frontend's identity, as ZeroMQ allows
COUNT = Int(0, INT64_MAX)
LIMITS = Settings(Limits, (Int(1), Int(1), Int(1), Int(1), Int(1), Flag()))
STRUCK = -1


@record
class SequenceState(Record):
    """One output of one request. Its tokens are all it needs to be computed."""

    frontend: bytes = wire(Bytes(MAX_NAME))
    request_id: int = wire(Int())
    output: int = wire(Int())
    arrival: int = wire(COUNT)
    num_prompt_tokens: int = wire(Int(1))
    max_len: int = wire(Int(1))
    sampling: Sampling = wire(Nested(Sampling))
    stop_token_ids: "Column[int]" = wire(Ints(MAX_STOP_IDS))
    priority: int = wire(Int(-INT32_MAX, INT32_MAX))
    arrived_at: float = wire(SECONDS)
    prefix_root: bytes = wire(Bytes(KEY_BYTES))
    is_constrained: bool = wire(Flag())
    mask: bytes = wire(Bytes(MAX_MASK_BYTES))
    tokens: "Column[int]" = wire(Ints(MAX_TOKENS))
    num_planned_tokens: int = wire(Int())
    num_committed_tokens: int = wire(Int())
    num_pending_tokens: int = wire(Int())
    slot: int = wire(Int(NO_SLOT, MAX_SEQUENCES))
    pages: "Column[int]" = wire(Ints(MAX_PAGES))
    num_named_pages: int = wire(Int())
    last_turn: int = wire(COUNT)
    num_preemptions: int = wire(Int())
    num_cached_tokens: int = wire(Int())
    began_at: float | None = wire(Maybe(SECONDS))
    first_token_at: float | None = wire(Maybe(SECONDS))
    passed_over: list[int] = wire(Many(COUNT, len(PassedOver)))
    name: str = wire(Text(MAX_REQUEST_NAME))


# Those that a sequence and its state have alike: numbers and values that nobody changes.
PLAIN_FIELDS = [
    name
    for name, _ in SequenceState.KINDS
    if name not in ("stop_token_ids", "prefix_root", "tokens", "pages", "passed_over")
]


@record
class FlightState(Record):
    """A plan whose result has not come; `rows` are places in `CoreState.sequences`, or STRUCK."""

    step: int = wire(COUNT)
    planned_at: float = wire(SECONDS)
    rows: list[int] = wire(Many(Int(STRUCK), MAX_SEQUENCES))
    counts: list[int] = wire(Many(Int(1), MAX_SEQUENCES))
    samples: list[bool] = wire(Many(Flag(), MAX_SEQUENCES))

    def check(self) -> None:
        if not len(self.rows) == len(self.counts) == len(self.samples):
            raise ProtocolError("columns of a plan in flight differ in length")


@record
class DeadlineState(Record):
    """A request that has not begun, and by when it must."""

    at: float = wire(SECONDS)
    frontend: bytes = wire(Bytes(MAX_NAME))
    request_id: int = wire(Int())


@record
class CoreState(Record):
    """All that decides what a `Scheduler` does next."""

    limits: Limits = wire(LIMITS)
    policy: Policy = wire(PolicyKind())
    epoch: int = wire(Int())
    max_model_len: int = wire(Int(1))
    vocab_size: int = wire(Int(1))
    page_size: int = wire(Int(1))
    num_pages: int = wire(Int(1, MAX_PAGES))
    length_bound: int = wire(Int(1))
    num_slots: int = wire(Int(0, MAX_SEQUENCES))
    free_slots: "Column[int]" = wire(Ints(MAX_SEQUENCES))  # a stack
    released: "Column[int]" = wire(Ints(MAX_PAGES))  # slots that the next plan tells the worker of
    free_pages: "Column[int]" = wire(Ints(MAX_PAGES))  # a stack
    cached_pages: "Column[int]" = wire(Ints(MAX_PAGES))  # oldest first
    named_pages: "Column[int]" = wire(Ints(MAX_PAGES))
    page_keys: bytes = wire(Bytes(KEY_BYTES * MAX_PAGES))  # of the named pages, one after the other
    sequences: list[SequenceState] = wire(Many(Nested(SequenceState), INT32_MAX))  # by request
    flights: list[FlightState] = wire(Many(Nested(FlightState), MAX_SEQUENCES))
    deadlines: list[DeadlineState] = wire(Many(Nested(DeadlineState), INT32_MAX))
    growth_share: float = wire(Float(0.0, 1e9))
    passed_over: list[int] = wire(Many(COUNT, len(PassedOver)))
    num_arrivals: int = wire(COUNT)
    num_turns: int = wire(COUNT)
    num_steps: int = wire(COUNT)
    num_preemptions: int = wire(COUNT)
    num_prompt_tokens: int = wire(COUNT)
    num_generated_tokens: int = wire(COUNT)
    num_prefix_query_tokens: int = wire(COUNT)
    num_prefix_hit_tokens: int = wire(COUNT)

    def check(self) -> None:
        held = {page for sequence in self.sequences for page in sequence.pages}
        # Before anything as long as the pool is made of a number in a file.
        if len(held) + len(self.free_pages) + len(self.cached_pages) != self.num_pages:
            raise ProtocolError("held, free and cached pages are not all pages")
        if len(self.page_keys) != KEY_BYTES * len(self.named_pages):
            raise ProtocolError("a named page has no key, or a key no page")
