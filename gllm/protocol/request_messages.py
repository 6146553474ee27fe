"""Frontend and scheduler, of the requests: what is asked, and the tokens that come of it."""

from enum import IntEnum

from gllm.protocol.base import (
    MAX_NAME,
    MAX_OUTPUTS,
    MAX_SALT,
    MAX_SENTENCE,
    MAX_SEQUENCES,
    MAX_STOP_IDS,
    MAX_TOKENS,
    MAX_VOCABULARY,
    Message,
    message,
)
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
MAX_MASKS = 512  # in one message, which so many of the longest do not make too long


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
    is_constrained: bool = wire(Flag(), default_factory=bool)  # a `Mask` follows for every token, in `Masks`
    name: str = wire(Text(MAX_NAME), default_factory=str)  # what people call it: the client's name for it

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


@message(13)
class SchedulerReady(Message):
    """The engine's limits, as the worker's memory decided them."""

    max_model_len: int = wire(Int(1))
    num_pages: int = wire(Int(1))
    page_size: int = wire(Int(1))
    vocab_size: int = wire(Int(1))


@record
class Mask(Record):
    """What the token behind `num_generated` others of a constrained output may be.

    bits: bit i % 32 of the little-endian int32 word i // 32 says whether token i is allowed; at least
    one is. An output is computed up to the token that lacks its mask, and no further.
    """

    request_id: int = wire(Int())
    output: int = wire(Int(0, MAX_OUTPUTS - 1))
    num_generated: int = wire(Int())
    bits: bytes = wire(Bytes(MAX_MASK_BYTES))


@message(17)
class Masks(Message):
    """Masks that were ready at the same time."""

    masks: list[Mask] = wire(Many(Nested(Mask), MAX_MASKS))


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
