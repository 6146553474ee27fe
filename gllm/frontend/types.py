"""The bodies of requests: the fields that are honoured, with their types.

Ranges of sampling belong to `SamplingParams`; what else a body may hold to `fields`.
"""

import reprlib
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from gllm.config.schema import LimitsConfig
from gllm.frontend.body_schemas import MESSAGES, PROMPT, STOP, TOOL_CHOICE, TOOLS
from gllm.frontend.chat import Ending
from gllm.frontend.fields import NEUTRAL_IN_CHAT, NEUTRAL_IN_COMPLETIONS, honoured
from gllm.frontend.params import ParameterError, QueueParams, SamplingParams
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
)
QUEUE_FIELDS = ("priority", "timeout_s", "cache_salt")

NumTokens = Annotated[int, Field(ge=1, le=INT32_MAX)]
Body = TypeVar("Body", bound=BaseModel)
# Fields whose shapes are unions are checked by hand: pydantic's errors for unions help nobody.
Unchecked = Any


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # padding against listeners, which a client cannot miss
    continuous_usage_stats: bool | None = None


class GenerationBody(StructuredBody):
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
        if options is not None and options.continuous_usage_stats:
            name = "stream_options.continuous_usage_stats"
            raise ParameterError(name, f"{name} is not supported yet: leave it out", "unsupported_parameter")
        return request

    def shared(self) -> dict[str, Any]:
        """What is given of the fields that every generating route has, but for the model and the stream."""
        names = GenerationBody.model_fields.keys() - self.ABSENT - {"model", "stream", "stream_options"}
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk of counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def num_tokens_asked(self) -> int | None:
        """How many tokens the request allows; None where it does not say."""
        return self.max_tokens

    def params(self, limits: LimitsConfig, defaults: Mapping[str, Any]) -> SamplingParams:
        """How to generate, by `defaults` where the request is silent; raises `ParameterError`."""
        given = self._given(SAMPLING_FIELDS)
        if (asked := self.num_tokens_asked()) is not None:
            given["max_tokens"] = asked
        stop = _stops(self.stop, limits)
        wish = self.structured()
        return SamplingParams(**{"max_tokens": None, **defaults, **given}, stop=stop, structured_outputs=wish)

    def queue(self) -> QueueParams:
        """How to wait; raises `ParameterError`."""
        return QueueParams(**self._given(QUEUE_FIELDS))

    def _given(self, names: Sequence[str]) -> dict[str, Any]:
        """Those of the fields that are not null."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class CompletionBody(GenerationBody):
    """POST /v1/completions"""

    NEUTRAL = NEUTRAL_IN_COMPLETIONS

    prompt: Annotated[Unchecked, WithJsonSchema(PROMPT)]

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

    def ending(self) -> Ending:
        """How the prompt ends; raises `ParameterError`."""
        continues = bool(self.continue_final_message)
        adds = self.add_generation_prompt
        return Ending(not continues if adds is None else adds, continues)

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
