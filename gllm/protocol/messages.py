"""Every message that two gLLM processes exchange, and nothing else that they share.

| message | way |
|---|---|
| `Hello` | first on every connection |
| `Submit`, `Mask`, `Cancel`, `StatsRequest`, `Report` | frontend -> scheduler |
| `ListRequests`, `ResetPrefixCache` | frontend -> scheduler |
| `SchedulerReady`, `Tokens`, `Rejected`, `Stats`, `RequestList`, `PrefixCacheReset` | scheduler -> frontend |
| `StepPlan` (with its `Admit`s) | scheduler -> worker |
| `WorkerReady`, `StepResult`, `WorkerFailed` | worker -> scheduler |
| `Ready`, `Failed`, `Drained` | child -> launcher |
| `Drain`, `Stop` | launcher -> child |

Sampled tokens, positions and whole page tables never travel to the worker: it has them.
"""

from collections.abc import Callable
from enum import IntEnum, StrEnum
from typing import ClassVar, TypeVar, dataclass_transform

from gllm.protocol.logits import MAX_TOP_LOGPROBS, Logprobs, PromptLogprobs, Shaping
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
    column,
    record,
    wire,
)

PROTOCOL_VERSION = 3

MAX_SEQUENCES = 1 << 16  # rows of a plan, slots of a worker, requests in one column
MAX_TOKENS = 1 << 24  # tokens of one prompt
MAX_PAGES = 1 << 24  # pages of one plan
MAX_OUTPUTS = 128  # `n` of one request
MAX_STOP_IDS = 1024
MAX_SENTENCE = 4096
MAX_VOCABULARY = 1 << 20  # tokens that a mask can speak of
MAX_SALT = 256
MAX_NAME = 128  # characters of what a request is called
MAX_LABEL = 256
MAX_SERIES = 1 << 14
MAX_LISTED = 1 << 12


class Role(StrEnum):
    """Who speaks on a connection."""

    LAUNCHER = "launcher"
    FRONTEND = "frontend"
    SCHEDULER = "scheduler"
    WORKER = "worker"


class PassedOver(IntEnum):
    """Why a waiting sequence did not get into a step."""

    NO_SLOT = 0  # max_num_seqs sequences run
    NO_PAGES = 1  # the KV cache has no room, or keeps it for the growth of what runs
    NO_TOKENS = 2  # the step's budget of tokens is used up
    NO_MASK = 3  # its frontend has not said yet what its grammar allows
    BEHIND = 4  # another one waits before it


class FinishReason(IntEnum):
    """Why a sequence ended."""

    STOP = 1  # one of its stop token ids
    LENGTH = 2  # max_tokens, or the context is full
    ABORT = 3  # cancelled
    ERROR = 4


class RejectCode(IntEnum):
    """Why a request was not taken."""

    TOO_LONG = 1  # the prompt can never fit
    OVERLOADED = 2  # the queue is full
    INVALID = 3  # a value that the frontend should have refused
    TIMEOUT = 4  # its deadline passed before anything of it was computed


def mask_bytes(vocab_size: int) -> int:
    """The length of a mask for tokens of [0, vocab_size)."""
    return 4 * -(-vocab_size // 32)


MAX_MASK_BYTES = mask_bytes(MAX_VOCABULARY)
MAX_PLAN_MASK_BYTES = 1 << 29


class Message(Record):
    """A record that travels by itself; its tag is the first item of the array."""

    TAG: ClassVar[int] = -1
    __slots__ = ()


M = TypeVar("M", bound=Message)
BY_TAG: dict[int, type[Message]] = {}


@dataclass_transform(field_specifiers=(wire,))
def message(tag: int) -> Callable[[type[M]], type[M]]:
    """Class decorator: a record that travels under the number `tag`."""

    def register(cls: type[M]) -> type[M]:
        made = record(cls)
        made.TAG = tag
        if tag in BY_TAG:
            raise TypeError(f"{cls.__name__} and {BY_TAG[tag].__name__} share the tag {tag}")
        BY_TAG[tag] = made
        return made

    return register


@message(1)
class Hello(Message):
    """Who is on this connection. `epoch` counts the worker's starts (0 where it does not matter)."""

    protocol_version: int = wire(Int())
    role: str = wire(Text(16))
    epoch: int = wire(Int())

    def check(self) -> None:
        if self.protocol_version != PROTOCOL_VERSION:
            raise ProtocolError(
                f"the {self.role:.16} speaks protocol version {self.protocol_version}, this process "
                f"{PROTOCOL_VERSION}: start all processes from one installation"
            )
        if self.role not in list(Role):
            raise ProtocolError(f"unknown role {self.role!r}")


# ---- frontend and scheduler -------------------------------------------------------------------


@record
class Sampling(Record):
    """How the next token is drawn. temperature 0 is greedy; top_k 0 and top_p 1 keep every token.

    The random number of a token depends on `seed` and the token's position alone. num_logprobs: 0 for
    none, else of each token its own log-probability and those of the num_logprobs - 1 likeliest;
    num_prompt_logprobs: the same of the prompt's tokens, for which all of the prompt must be computed.
    """

    temperature: float = wire(Float(0.0, 100.0))
    top_k: int = wire(Int())
    top_p: float = wire(Float(0.0, 1.0))
    seed: int = wire(Int(0, INT64_MAX))
    num_logprobs: int = wire(Int(0, MAX_TOP_LOGPROBS + 1), default_factory=int)
    num_prompt_logprobs: int = wire(Int(0, MAX_TOP_LOGPROBS + 1), default_factory=int)
    shaping: Shaping | None = wire(Maybe(Nested(Shaping)), default_factory=type(None))


@message(10)
class Submit(Message):
    """A request. `generated` holds, per output, tokens that a former scheduler already delivered."""

    request_id: int = wire(Int())
    prompt: "Column[int]" = wire(Ints(MAX_TOKENS))
    generated: "list[Column[int]]" = wire(Many(Ints(MAX_TOKENS), MAX_OUTPUTS))
    sampling: Sampling = wire(Nested(Sampling))
    max_tokens: int = wire(Int(1))
    stop_token_ids: "Column[int]" = wire(Ints(MAX_STOP_IDS))
    n: int = wire(Int(1, MAX_OUTPUTS))
    priority: int = wire(Int(-INT32_MAX, INT32_MAX))  # low values first, under the policy `priority`
    timeout_s: float = wire(Float(0.0, 1e9))  # to be begun within; 0: no deadline
    cache_salt: str = wire(Text(MAX_SALT))  # only requests with the same one share cached pages
    is_constrained: bool = wire(Flag(), default_factory=bool)  # a `Mask` follows for every token
    name: str = wire(Text(MAX_NAME), default_factory=str)  # what people call it: the client's X-Request-Id

    def check(self) -> None:
        if not self.prompt:
            raise ProtocolError("a request needs at least one prompt token")
        if self.generated and len(self.generated) != self.n:
            raise ProtocolError(f"{len(self.generated)} generated columns for n = {self.n} outputs")


@message(11)
class Cancel(Message):
    """End these requests, or of each the one output that `outputs` names, if it is not empty; unknown
    ones are ignored, since they may have ended meanwhile."""

    request_ids: "Column[int]" = wire(Ints(MAX_SEQUENCES))
    outputs: "Column[int]" = wire(Ints(MAX_SEQUENCES), default_factory=column)

    def check(self) -> None:
        if self.outputs and len(self.outputs) != len(self.request_ids):
            raise ProtocolError("columns of Cancel differ in length")


@message(12)
class StatsRequest(Message):
    """Answered by one `Stats`."""


@message(13)
class SchedulerReady(Message):
    """The engine's limits, as the worker's memory decided them."""

    max_model_len: int = wire(Int(1))
    num_pages: int = wire(Int(1))
    page_size: int = wire(Int(1))
    vocab_size: int = wire(Int(1))


@message(17)
class Mask(Message):
    """What the token behind `num_generated` others of a constrained output may be.

    bits: bit i % 32 of the little-endian int32 word i // 32 says whether token i is allowed; at least
    one is. An output is computed up to the token that lacks its mask, and no further.
    """

    request_id: int = wire(Int())
    output: int = wire(Int(0, MAX_OUTPUTS - 1))
    num_generated: int = wire(Int())
    bits: bytes = wire(Bytes(MAX_MASK_BYTES))


@record
class Finished(Record):
    """`row` of a `Tokens` message was the sequence's last, and how its life went.

    Queue time ends with its first step, prefill time with its first token.
    """

    row: int = wire(Int())
    reason: int = wire(Int(1, 4))
    num_preemptions: int = wire(Int())
    queue_s: float = wire(Float(0.0, 1e12))
    prefill_s: float = wire(Float(0.0, 1e12))
    decode_s: float = wire(Float(0.0, 1e12))


@record
class Cached(Record):
    """`row` of a `Tokens` message is its sequence's first; so much of the prompt was in the cache."""

    row: int = wire(Int())
    num_tokens: int = wire(Int(1))


@message(14)
class Tokens(Message):
    """New tokens of one commit, as columns: row i is token `tokens[i]` of output `outputs[i]` of
    request `request_ids[i]`. `outputs` is empty where every output is number 0."""

    request_ids: "Column[int]" = wire(Ints(MAX_SEQUENCES))
    outputs: "Column[int]" = wire(Ints(MAX_SEQUENCES))
    tokens: "Column[int]" = wire(Ints(MAX_SEQUENCES))
    finished: list[Finished] = wire(Many(Nested(Finished), MAX_SEQUENCES))
    cached: list[Cached] = wire(Many(Nested(Cached), MAX_SEQUENCES))
    logprobs: Logprobs | None = wire(Maybe(Nested(Logprobs)), default_factory=type(None))  # places: rows
    prompt_logprobs: list[PromptLogprobs] = wire(
        Many(Nested(PromptLogprobs), MAX_SEQUENCES), default_factory=list
    )

    def check(self) -> None:
        rows = len(self.request_ids)
        if len(self.tokens) != rows or len(self.outputs) not in (0, rows):
            raise ProtocolError("columns of Tokens differ in length")
        marked = [item.row for item in self.finished] + [item.row for item in self.cached]
        if any(row >= rows for row in marked):
            raise ProtocolError("a marked row lies beyond the columns of Tokens")
        if self.logprobs is not None and any(row >= rows for row in self.logprobs.places):
            raise ProtocolError("log-probabilities of a row beyond the columns of Tokens")


@message(15)
class Rejected(Message):
    """The request was not taken and no token of it will follow."""

    request_id: int = wire(Int())
    code: int = wire(Int(1, 4))
    sentence: str = wire(Text(MAX_SENTENCE))


@record
class Series(Record):
    """One count, or one distribution, that only grows (`gllm.meters`). counts: of a distribution's
    buckets, none of a plain count. total: the count itself, or the sum of the distribution's values."""

    name: str = wire(Text(64))
    labels: list[str] = wire(Many(Text(MAX_LABEL), 8))
    counts: list[int] = wire(Many(Int(0, INT64_MAX), 64))
    total: float = wire(Float(0.0, 1e300))


@message(16)
class Stats(Message):
    """The scheduler's state now. `oldest_step_s` is the age of the oldest plan without a result.

    series: what was counted in all processes; empty where nobody counts, as in a replay.
    """

    num_running: int = wire(Int())
    num_waiting: int = wire(Int())
    num_waiting_tokens: int = wire(Int(0, INT64_MAX))
    num_pages: int = wire(Int())
    num_free_pages: int = wire(Int())  # those that hold cached prefixes included
    num_cached_pages: int = wire(Int())
    num_slots: int = wire(Int())
    num_free_slots: int = wire(Int())
    num_plans_in_flight: int = wire(Int())
    num_steps: int = wire(Int(0, INT64_MAX))
    num_preemptions: int = wire(Int(0, INT64_MAX))
    num_prompt_tokens: int = wire(Int(0, INT64_MAX))
    num_generated_tokens: int = wire(Int(0, INT64_MAX))
    num_prefix_query_tokens: int = wire(Int(0, INT64_MAX))  # tokens of admitted sequences ...
    num_prefix_hit_tokens: int = wire(Int(0, INT64_MAX))  # ... and those of them found in the cache
    passed_over: list[int] = wire(Many(Int(0, INT64_MAX), len(PassedOver)))  # sequence-steps, by `PassedOver`
    oldest_step_s: float = wire(Float(0.0, 1e12))
    series: list[Series] = wire(Many(Nested(Series), MAX_SERIES), default_factory=list)


@message(40)
class Report(Message):
    """All that this frontend has counted since it started; the next one replaces it."""

    series: list[Series] = wire(Many(Nested(Series), MAX_SERIES))


@message(41)
class ListRequests(Message):
    """Asks for one `RequestList` with the same `question`. name: only requests that are called so."""

    question: int = wire(Int())
    name: str = wire(Text(MAX_NAME))
    most: int = wire(Int(1, MAX_LISTED))


@record
class RequestState(Record):
    """One sequence, running or waiting. Times are seconds so far; `queue_s` ends with the first step."""

    name: str = wire(Text(MAX_NAME))
    output: int = wire(Int())
    is_running: bool = wire(Flag())
    num_prompt_tokens: int = wire(Int())
    num_computed_tokens: int = wire(Int())  # whose keys and values are in the cache for it
    num_generated_tokens: int = wire(Int())
    max_tokens: int = wire(Int())
    num_cached_tokens: int = wire(Int())
    num_preemptions: int = wire(Int())
    num_pages: int = wire(Int())
    num_ahead: int = wire(Int())  # of those that wait, the number before it
    priority: int = wire(Int(-INT32_MAX, INT32_MAX))
    age_s: float = wire(Float(0.0, 1e12))
    queue_s: float = wire(Float(0.0, 1e12))
    prefill_s: float = wire(Float(0.0, 1e12))
    passed_over: list[int] = wire(Many(Int(0, INT64_MAX), len(PassedOver)))  # steps, while first in line


@message(42)
class RequestList(Message):
    """The oldest running sequences, then those that wait in their order, up to the wanted number."""

    question: int = wire(Int())
    num_running: int = wire(Int())
    num_waiting: int = wire(Int())
    requests: list[RequestState] = wire(Many(Nested(RequestState), MAX_LISTED))


@message(43)
class ResetPrefixCache(Message):
    """Forget what every page contains. Answered by one `PrefixCacheReset` with the same `question`."""

    question: int = wire(Int())


@message(44)
class PrefixCacheReset(Message):
    """num_pages: how many could have been found before."""

    question: int = wire(Int())
    num_pages: int = wire(Int())


# ---- scheduler and worker ---------------------------------------------------------------------


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


# ---- launcher and children --------------------------------------------------------------------


@message(30)
class Ready(Message):
    """This child serves; `detail` is what the launcher should tell the user (the URL, say)."""

    detail: str = wire(Text(MAX_SENTENCE))


@message(31)
class Failed(Message):
    """This child ends, and why."""

    sentence: str = wire(Text(MAX_SENTENCE))


@message(32)
class Drain(Message):
    """Take nothing new, finish what runs, answer `Drained`."""


@message(33)
class Drained(Message):
    """Nothing runs any more."""


@message(34)
class Stop(Message):
    """End now."""
