"""What a caller may ask of one generation, checked once.

Knows ranges and their sentences; nothing of HTTP, tokenizers or the engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gllm.frontend.parameter_error import ParameterError as ParameterError
from gllm.frontend.structured.wish import StructuredOutputs
from gllm.protocol.messages import MAX_SALT, MAX_STOP_IDS
from gllm.protocol.wire import INT32_MAX, INT64_MAX

MAX_TEMPERATURE = 2.0
MAX_TIMEOUT_S = 1e6
GREEDY_BELOW = 1e-5  # a smaller temperature overflows the logits it divides, and means greedy anyway


# What takes away tokens that a grammar may need: perhaps nothing would be left.
CONTRADICTS_GRAMMARS = ("ignore_eos", "min_tokens", "allowed_token_ids", "bad_words")


@dataclass(frozen=True, slots=True)
class QueueParams:
    """How a request waits; raises `ParameterError` for a value out of range.

    priority: low values go first where the scheduling policy is `priority`.
    timeout_s: seconds within which it must begin; None waits for as long as it takes.
    cache_salt: only requests with the same one share cached prefixes.
    name: what people call it where requests are listed. tenant: whose tokens they are.
    """

    priority: int = 0
    timeout_s: float | None = None
    cache_salt: str = ""
    name: str = ""
    tenant: str = ""

    def __post_init__(self) -> None:
        _integer("priority", self.priority, -INT32_MAX, INT32_MAX)
        if self.timeout_s is not None:
            _in_range("timeout_s", self.timeout_s, 0.001, MAX_TIMEOUT_S)
        if not isinstance(self.cache_salt, str) or len(self.cache_salt) > MAX_SALT:
            raise ParameterError(
                "cache_salt", f"cache_salt must be a string of at most {MAX_SALT} characters"
            )


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to generate; raises `ParameterError` (a ValueError) for a value out of range.

    temperature: 0 is greedy, at most 2.
    top_p: the smallest set of tokens with this probability, (0, 1].
    top_k: this many likeliest tokens; 0 and -1 keep all.
    seed: the same seed gives the same tokens; None draws one.
    max_tokens: tokens to generate at most; None goes on to the end of the context.
    stop: texts that end the output and are not part of it.
    stop_token_ids: tokens that end the output; their text is not shown.
    ignore_eos: do not stop at the model's own end of text.
    skip_special_tokens: leave special tokens out of the text.
    structured_outputs: what the text must be (a JSON schema, a regular expression, a choice, a grammar).
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int | None = 16
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    structured_outputs: StructuredOutputs | None = None

    def __post_init__(self) -> None:
        if self.n != 1 or isinstance(self.n, bool):
            raise ParameterError(
                "n", "n must be 1: several outputs a request are not supported yet, send several requests"
            )
        _in_range("temperature", self.temperature, 0.0, MAX_TEMPERATURE)
        _in_range("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0:
            raise ParameterError("top_p", "top_p must be above 0 and at most 1: use temperature 0 for greedy")
        _integer("top_k", self.top_k, -1, INT32_MAX)
        if self.seed is not None:
            _integer("seed", self.seed, -INT64_MAX - 1, INT64_MAX)
        if self.max_tokens is not None:
            _integer("max_tokens", self.max_tokens, 1, INT32_MAX)
        if any(not isinstance(text, str) or not text for text in self.stop_strings):
            raise ParameterError("stop", "stop must be a string or a list of strings, none of them empty")
        for token in self.stop_token_ids or ():
            _integer("stop_token_ids", token, 0, INT32_MAX)
        if len(self.stop_token_ids or ()) > MAX_STOP_IDS:
            raise ParameterError("stop_token_ids", f"stop_token_ids may hold at most {MAX_STOP_IDS} ids")
        for name in ("ignore_eos", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise ParameterError(name, f"{name} must be true or false")

        if self.structured_outputs is not None:
            self._check_structured()

    def _check_structured(self) -> None:
        """A grammar ends the text where it ends, and allows what it allows: nothing may contradict that."""
        if not isinstance(self.structured_outputs, StructuredOutputs):
            raise ParameterError(
                "structured_outputs",
                f"structured_outputs must be StructuredOutputs(...), got {self.structured_outputs!r:.80}",
            )
        for name in CONTRADICTS_GRAMMARS:
            if getattr(self, name, None):
                raise ParameterError(
                    name, f"{name} and structured outputs contradict each other: give only one of them"
                )

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW


def _in_range(name: str, value: object, low: float, high: float) -> None:
    # Written so that NaN fails it too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ParameterError(name, f"{name} must be a number of [{low:g}, {high:g}], got {value!r:.80}")


def _integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ParameterError(name, f"{name} must be an integer of [{low}, {high}], got {value!r:.80}")
