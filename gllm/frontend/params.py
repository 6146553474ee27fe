"""What a caller may ask of one generation, checked once.

Knows ranges and their sentences; nothing of HTTP, tokenizers or the engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gllm.frontend.checks import biases, flag, in_range, integer, token_ids
from gllm.frontend.parameter_error import ParameterError as ParameterError
from gllm.frontend.structured.wish import StructuredOutputs
from gllm.protocol.logits import (
    MAX_ALLOWED_TOKENS,
    MAX_BAD_WORDS,
    MAX_BIAS,
    MAX_BIASES,
    MAX_REPETITION_PENALTY,
    MAX_TOP_LOGPROBS,
    MIN_REPETITION_PENALTY,
)
from gllm.protocol.messages import MAX_OUTPUTS, MAX_SALT, MAX_STOP_IDS
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
        integer("priority", self.priority, -INT32_MAX, INT32_MAX)
        if self.timeout_s is not None:
            in_range("timeout_s", self.timeout_s, 0.001, MAX_TIMEOUT_S)
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
    include_stop_str_in_output: show the stop string, or the text of the stop token, that ended the output.
    min_tokens: nothing ends the output before so many.
    min_p: drop tokens with less than this share of the likeliest one's probability, [0, 1].
    presence_penalty, frequency_penalty: taken from the logit of a generated token, once and for each time
    it was; [-2, 2].
    repetition_penalty: tokens of prompt and output become this much less likely, 1 is neutral.
    logit_bias: by token id, a number of [-100, 100] that is added to its logit.
    allowed_token_ids: no other token is generated. bad_words: none of these texts is.
    logprobs: with each token its log-probability, and those of so many likeliest ones.
    prompt_logprobs: the same of the prompt's tokens.
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
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    include_stop_str_in_output: bool = False
    logit_bias: Mapping[int, float] | None = None
    allowed_token_ids: Sequence[int] | None = None
    bad_words: Sequence[str] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    structured_outputs: StructuredOutputs | None = None

    def __post_init__(self) -> None:
        integer("n", self.n, 1, MAX_OUTPUTS)
        in_range("temperature", self.temperature, 0.0, MAX_TEMPERATURE)
        in_range("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0:
            raise ParameterError("top_p", "top_p must be above 0 and at most 1: use temperature 0 for greedy")
        integer("top_k", self.top_k, -1, INT32_MAX)
        if self.seed is not None:
            integer("seed", self.seed, -INT64_MAX - 1, INT64_MAX)
        if self.max_tokens is not None:
            integer("max_tokens", self.max_tokens, 1, INT32_MAX)
        if any(not isinstance(text, str) or not text for text in self.stop_strings):
            raise ParameterError("stop", "stop must be a string or a list of strings, none of them empty")
        token_ids("stop_token_ids", self.stop_token_ids or (), MAX_STOP_IDS)
        for name in ("ignore_eos", "skip_special_tokens", "include_stop_str_in_output"):
            flag(name, getattr(self, name))
        self._check_shaping()
        if self.structured_outputs is not None:
            self._check_structured()

    def _check_shaping(self) -> None:
        in_range("min_p", self.min_p, 0.0, 1.0)
        in_range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        in_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        in_range(
            "repetition_penalty", self.repetition_penalty, MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY
        )
        integer("min_tokens", self.min_tokens, 0, INT32_MAX)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ParameterError(
                "min_tokens", f"min_tokens is {self.min_tokens}, above max_tokens, {self.max_tokens}"
            )
        if self.logit_bias is not None:
            biases("logit_bias", self.logit_bias, MAX_BIASES, MAX_BIAS)
        if self.allowed_token_ids is not None:
            token_ids("allowed_token_ids", self.allowed_token_ids, MAX_ALLOWED_TOKENS)
            if not self.allowed_token_ids:
                raise ParameterError("allowed_token_ids", "allowed_token_ids must not be empty: leave it out")
        words = self.bad_words or ()
        if isinstance(words, str) or any(not isinstance(word, str) or not word.strip() for word in words):
            raise ParameterError("bad_words", "bad_words must be a list of strings, none of them blank")
        if len(words) > MAX_BAD_WORDS // 2:  # each is spelt in two ways
            raise ParameterError("bad_words", f"at most {MAX_BAD_WORDS // 2} bad words are possible")
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                integer(name, getattr(self, name), 0, MAX_TOP_LOGPROBS)

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
