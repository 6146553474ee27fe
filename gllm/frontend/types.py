"""The bodies of requests: the fields that are honoured, with their types.

Ranges of sampling belong to `SamplingParams`; what else a body may hold to `fields`.
"""

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from gllm.config.schema import LimitsConfig
from gllm.frontend.body_schemas import MESSAGES, PROMPT, STOP, TOOL_CHOICE, TOOLS
from gllm.frontend.chat import Ending
from gllm.frontend.fields import NEUTRAL_IN_CHAT, NEUTRAL_IN_COMPLETIONS, honoured
from gllm.frontend.params import ParameterError, QueueParams, SamplingParams
from gllm.frontend.responses import Shows
from gllm.frontend.structured.fields import StructuredBody
from gllm.frontend.tools import ToolUse, tool_use
from gllm.protocol.wire import INT32_MAX

DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's

SAMPLING_FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "stop_token_ids",
    "ignore_eos",
    "skip_special_tokens",
    "n",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "min_tokens",
    "include_stop_str_in_output",
    "allowed_token_ids",
    "bad_words",
    "prompt_logprobs",
)
QUEUE_FIELDS = ("priority", "timeout_s", "cache_salt")

NumTokens = Annotated[int, Field(ge=1, le=INT32_MAX)]
Body = TypeVar("Body", bound=BaseModel)
REQUEST_ID = r"^[\x21-\x7e]{1,128}$"
# Fields whose shapes are unions are checked by hand: pydantic's errors for unions help nobody.
Unchecked = Any


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # padding against listeners, which a client cannot miss
    continuous_usage_stats: bool | None = None


class GenerationBody(StructuredBody, ABC):
    """What both generating routes take. A null is the same as leaving the field out."""

    model_config = ConfigDict(strict=True, extra="forbid")
    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    ABSENT: ClassVar[frozenset[str]] = frozenset()  # fields of this class that the API of a subclass lacks

    model: str
    max_tokens: NumTokens | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: Annotated[Unchecked, WithJsonSchema(STOP)] = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    n: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    include_stop_str_in_output: bool | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: NumTokens | None = None
    return_token_ids: bool | None = None
    request_id: Annotated[str, Field(pattern=REQUEST_ID)] | None = None
    priority: int | None = None
    timeout_s: float | None = None
    cache_salt: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """The request in a JSON object; raises `ParameterError`."""
        request = read_body(cls, body, cls.NEUTRAL, cls.ABSENT)
        options = request.stream_options
        if options is not None and not request.stream:
            raise ParameterError("stream_options", "stream_options needs stream: true")
        if request.stream and request.prompt_logprobs is not None:
            raise ParameterError("prompt_logprobs", "prompt_logprobs cannot be streamed: leave out stream")
        return request

    def shared(self) -> dict[str, Any]:
        """What is given of the fields that every generating route has, but for the model and the stream."""
        names = GenerationBody.model_fields.keys() - self.ABSENT - {"model", "stream", "stream_options"}
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk of counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    @abstractmethod
    def num_logprobs(self) -> int | None:
        """How many likeliest tokens are shown with each token, beside its own; None: not even its own."""

    def shows(self) -> Shows:
        """What the answer shows beside its text."""
        return Shows(
            usage=self.wants_usage,
            continuous_usage=bool(self.stream_options and self.stream_options.continuous_usage_stats),
            logprobs=self.num_logprobs is not None,
            prompt_logprobs=self.prompt_logprobs is not None,
            token_ids=bool(self.return_token_ids),
        )

    def num_tokens_asked(self) -> int | None:
        """How many tokens the request allows; None where it does not say."""
        return self.max_tokens

    def params(self, limits: LimitsConfig, defaults: Mapping[str, Any]) -> SamplingParams:
        """How to generate, by `defaults` where the request is silent; raises `ParameterError`."""
        given = self._given(SAMPLING_FIELDS)
        if (asked := self.num_tokens_asked()) is not None:
            given["max_tokens"] = max(asked, 1)
        params = SamplingParams(
            **{"max_tokens": None, **defaults, **given},
            stop=_stops(self.stop, limits),
            logit_bias=_biases(self.logit_bias),
            logprobs=self.num_logprobs,
            structured_outputs=self.structured(),
        )
        _at_most("n", params.n, limits.max_n)
        _at_most("prompt_logprobs", params.prompt_logprobs, limits.max_logprobs)
        return params

    def queue(self) -> QueueParams:
        """How to wait; raises `ParameterError`."""
        return QueueParams(**self._given(QUEUE_FIELDS), name=self.request_id or "")

    def _given(self, names: Sequence[str]) -> dict[str, Any]:
        """Those of the fields that are not null."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class CompletionBody(GenerationBody):
    """POST /v1/completions"""

    NEUTRAL = NEUTRAL_IN_COMPLETIONS

    prompt: Annotated[Unchecked, WithJsonSchema(PROMPT)]
    max_tokens: Annotated[int, Field(ge=0, le=INT32_MAX)] | None = None  # 0: the prompt is only echoed
    logprobs: int | None = None
    echo: bool | None = None
    best_of: int | None = None

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    def num_tokens_asked(self) -> int | None:
        if self.max_tokens == 0 and not self.echo:
            raise ParameterError("max_tokens", "max_tokens must be at least 1, unless the prompt is echoed")
        return self.max_tokens

    def params(self, limits: LimitsConfig, defaults: Mapping[str, Any]) -> SamplingParams:
        """As those of every body; `n` counts what is generated, of which `best_of` is more than is shown."""
        _at_most("logprobs", self.logprobs, limits.max_logprobs)
        params = super().params(limits, defaults)
        if self.echo and self.logprobs is not None:
            params = replace(params, prompt_logprobs=max(self.logprobs, self.prompt_logprobs or 0))
        if self.best_of is None:
            return params
        _at_most("best_of", self.best_of, limits.max_n)
        if self.best_of < params.n:
            raise ParameterError("best_of", f"best_of is {self.best_of}, less than n, {params.n}")
        if self.best_of > params.n and self.stream:
            raise ParameterError(
                "best_of", "best_of above n cannot be streamed: the best are known at the end"
            )
        # They are ranked by their log-probabilities, shown or not.
        return replace(params, n=self.best_of, logprobs=self.logprobs or 0)

    def prompts(self, limits: LimitsConfig) -> list[str | list[int]]:
        """One or more prompts, each as text or token ids; raises `ParameterError`."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if isinstance(given, list) and given:
            if _is_ids(given):
                return [given]
            if len(given) > limits.max_prompts:
                raise ParameterError(
                    "prompt",
                    f"{len(given)} prompts, at most {limits.max_prompts} are possible: send several requests",
                )
            if all(isinstance(item, str) for item in given) or all(_is_ids(item) for item in given):
                return given
        raise ParameterError(
            "prompt", "prompt must be a string, a list of token ids, or a list of either; none of them empty"
        )


class ChatBody(GenerationBody):
    """POST /v1/chat/completions"""

    NEUTRAL = NEUTRAL_IN_CHAT

    messages: Annotated[Unchecked, WithJsonSchema(MESSAGES)]
    max_completion_tokens: NumTokens | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    tools: Annotated[Unchecked, WithJsonSchema(TOOLS)] = None
    tool_choice: Annotated[Unchecked, WithJsonSchema(TOOL_CHOICE)] = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def params(self, limits: LimitsConfig, defaults: Mapping[str, Any]) -> SamplingParams:
        if self.top_logprobs and not self.logprobs:
            raise ParameterError("top_logprobs", "top_logprobs needs logprobs: true")
        _at_most("top_logprobs", self.top_logprobs, limits.max_logprobs)
        if self.top_logprobs is not None and self.top_logprobs < 0:
            raise ParameterError("top_logprobs", "top_logprobs must be at least 0")
        return super().params(limits, defaults)

    def ending(self) -> Ending:
        """How the prompt ends; raises `ParameterError`."""
        continues = bool(self.continue_final_message)
        adds = self.add_generation_prompt
        kwargs = self.chat_template_kwargs or {}
        return Ending(not continues if adds is None else adds, continues, kwargs)

    def tool_use(self) -> ToolUse:
        """Which tools may be called; raises `ParameterError`."""
        return tool_use(self.tools, self.tool_choice, self.parallel_tool_calls)

    def num_tokens_asked(self) -> int | None:
        newer, older = self.max_completion_tokens, self.max_tokens
        if newer is not None and older is not None and newer != older:
            raise ParameterError(
                "max_tokens", "max_tokens and max_completion_tokens mean the same: give only one of them"
            )
        return older if newer is None else newer


def read_body(
    kind: type[Body],
    body: Mapping[str, Any],
    neutral: Mapping[str, tuple[Any, ...]] = MappingProxyType({}),
    absent: Collection[str] = (),
) -> Body:
    """The request in a JSON object; raises `ParameterError`.

    neutral: values of fields that are refused else, beside those that every route has. absent: fields of
    `kind` that are unknown here.
    """
    try:
        return kind.model_validate(honoured(body, kind.model_fields.keys() - set(absent), neutral))
    except ValidationError as error:
        raise _parameter_error(error) from None


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _at_most(name: str, value: int | None, most: int) -> None:
    if value is not None and value > most:
        raise ParameterError(name, f"{name} is {value}, but this server gives at most {most}")


def _biases(given: Mapping[str, float] | None) -> dict[int, float] | None:
    """JSON has only strings for keys."""
    for token in given or ():
        if not token.isdecimal() or not token.isascii() or len(token) > 10:
            raise ParameterError("logit_bias", f"logit_bias must be by token id, got {token!r:.80}")
    return None if given is None else {int(token): bias for token, bias in given.items()}


def _stops(stop: Any, limits: LimitsConfig) -> list[str] | None:
    stops = [stop] if isinstance(stop, str) else stop
    if stops is None:
        return None
    if not isinstance(stops, list) or any(not isinstance(text, str) or not text for text in stops):
        raise ParameterError("stop", "stop must be a string or a list of strings, none of them empty")
    if len(stops) > limits.max_stop_strings:
        raise ParameterError("stop", f"at most {limits.max_stop_strings} stop strings are possible")
    if any(len(text) > limits.max_stop_len for text in stops):
        raise ParameterError("stop", f"a stop string may have at most {limits.max_stop_len} characters")
    return stops


def _parameter_error(error: ValidationError) -> ParameterError:
    """The first thing that is wrong, with the path of its field."""
    first = error.errors(include_url=False, include_context=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])[1:]
    if first["type"] == "missing":
        return ParameterError(path, f"the field {path} is missing: give it")
    if first["type"] == "extra_forbidden":
        return ParameterError(path, f"there is no field {path:.80}: leave it out", "unknown_parameter")
    wanted = first["msg"].removeprefix("Input ")
    return ParameterError(path, f"{path} {wanted}, got {reprlib.repr(first['input']):.100}")
