"""What a request may ask of its logits beside the usual filters, and the log-probabilities that come home.

Few requests carry any of it: the messages that hold these records hold None or nothing instead. Knows
ranges and lengths; what the values do is documented in `kernels/reference_logits.py`.
"""

from gllm.protocol.wire import (
    Column,
    Float,
    FloatColumn,
    Floats,
    Int,
    Ints,
    Many,
    Nested,
    ProtocolError,
    Record,
    record,
    wire,
)

MAX_BIASES = 1024
MAX_ALLOWED_TOKENS = 1 << 20
MAX_BAD_WORDS = 1024
MAX_BAD_WORD_TOKENS = 32  # the worker keeps so many recent tokens less one
MAX_BANNED_ENDS = 1024
MAX_TOP_LOGPROBS = 1024
MAX_POSITIONS = 1 << 24
MAX_ENTRIES = 1 << 26
MAX_BIAS = 100.0
MIN_REPETITION_PENALTY = 0.01
MAX_REPETITION_PENALTY = 100.0


@record
class Shaping(Record):
    """Changes of a sequence's logits before a token is drawn, and the filter min_p.

    Neutral values: 0 for min_p, frequency, presence and min_tokens, 1 for repetition, empty columns.
    """

    min_p: float = wire(Float(0.0, 1.0))
    repetition_penalty: float = wire(Float(MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY))
    frequency_penalty: float = wire(Float(-2.0, 2.0))
    presence_penalty: float = wire(Float(-2.0, 2.0))
    bias_token_ids: "Column[int]" = wire(Ints(MAX_BIASES))  # none twice
    biases: "FloatColumn[float]" = wire(Floats(-MAX_BIAS, MAX_BIAS, MAX_BIASES))
    allowed_token_ids: "Column[int]" = wire(Ints(MAX_ALLOWED_TOKENS))  # empty: all
    bad_words: "list[Column[int]]" = wire(Many(Ints(MAX_BAD_WORD_TOKENS), MAX_BAD_WORDS))
    min_tokens: int = wire(Int())  # before so many are generated ...
    banned_ends: "Column[int]" = wire(Ints(MAX_BANNED_ENDS))  # ... none of these comes

    def check(self) -> None:
        if len(self.bias_token_ids) != len(self.biases):
            raise ProtocolError(f"{len(self.biases)} biases for {len(self.bias_token_ids)} tokens")
        if not all(self.bad_words):
            raise ProtocolError("a bad word has no tokens")


@record
class Logprobs(Record):
    """Natural log-probabilities at some positions, of the model's own distribution.

    At `places[i]` stand `counts[i]` entries, one after the other in `token_ids` and `values`: first the
    token that is there, then the likeliest, in falling order. `ranks[i]`: 1 if no token is likelier than
    the one there.
    """

    places: "Column[int]" = wire(Ints(MAX_POSITIONS))
    counts: "Column[int]" = wire(Ints(MAX_POSITIONS))
    ranks: "Column[int]" = wire(Ints(MAX_POSITIONS))
    token_ids: "Column[int]" = wire(Ints(MAX_ENTRIES))
    values: "FloatColumn[float]" = wire(Floats(-1e5, 0.0, MAX_ENTRIES))

    def check(self) -> None:
        if not len(self.places) == len(self.counts) == len(self.ranks):
            raise ProtocolError("columns of log-probabilities differ in length")
        if not sum(self.counts) == len(self.token_ids) == len(self.values):
            raise ProtocolError("log-probabilities have another length than their counts say")
        if 0 in self.counts:
            raise ProtocolError("a place without log-probabilities")


@record
class PromptLogprobs(Record):
    """Log-probabilities of the prompt tokens at the positions `logprobs.places` of one sequence."""

    owner: int = wire(Int())  # from the worker: the row of the plan; to a frontend: the request
    logprobs: Logprobs = wire(Nested(Logprobs))
