"""The fields that every generating API has, with their types, and how a body is read.

Ranges of sampling belong to `SamplingParams`; what else a body may hold to `fields`.
"""

import reprlib
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from gllm.frontend.body_schemas import STOP
from gllm.frontend.fields import honoured
from gllm.frontend.params import ParameterError
from gllm.frontend.structured.fields import StructuredBody
from gllm.protocol.wire import INT32_MAX

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


class GenerationBody(StructuredBody):
    """What every generating route takes. A null is the same as leaving the field out."""

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
