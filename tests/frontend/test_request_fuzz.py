"""Whatever JSON a client sends: a request, or one error with its field; nothing else is ever raised."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gllm.config.schema import LimitsConfig
from gllm.frontend.body import parse_object
from gllm.frontend.errors import ApiError, api_error
from gllm.frontend.fields import HARMLESS, NEUTRAL
from gllm.frontend.messages import checked_messages
from gllm.frontend.params import ParameterError, SamplingParams
from gllm.frontend.types import ChatBody, CompletionBody

LIMITS = LimitsConfig()
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
names = st.sampled_from(
    sorted(
        {*CompletionBody.model_fields, *ChatBody.model_fields, *NEUTRAL, *HARMLESS, "role", "content", "text"}
    )
)
keyed = st.dictionaries(names | st.text(max_size=8), values, max_size=6)
messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "system", "tool"]) | values,
            "content": st.text(max_size=5) | values,
        },
        optional={"name": values, "tool_calls": values},
    ),
    max_size=3,
)


def check_error(error: Exception, what: str | None) -> None:
    assert what is not None
    described = api_error(error)
    assert described.status == 400
    assert len(described.body()) < 20_000
    described.body().decode()


@settings(max_examples=300)
@given(body=keyed, model=st.just("tiny") | values, prompt=st.just("hello") | values)
def test_any_completion_is_read_or_refused(body: dict[str, Any], model: Any, prompt: Any) -> None:
    try:
        read = CompletionBody.read({"model": model, "prompt": prompt, **body})
        assert read.prompts(LIMITS)
        assert isinstance(read.params(LIMITS, {}), SamplingParams)
    except ParameterError as error:
        check_error(error, error.param)


@settings(max_examples=300)
@given(body=keyed, chat=messages | values)
def test_any_chat_is_read_or_refused(body: dict[str, Any], chat: Any) -> None:
    try:
        read = ChatBody.read({"model": "tiny", "messages": chat, **body})
        assert isinstance(read.params(LIMITS, {}), SamplingParams)
        for message in checked_messages(read.messages):
            assert isinstance(message["content"], str)
    except ParameterError as error:
        check_error(error, error.param)


@given(
    body=st.binary(max_size=50)
    | st.text(max_size=50).map(str.encode)
    | values.map(json.dumps).map(str.encode)
)
def test_any_bytes_are_an_object_or_refused(body: bytes) -> None:
    try:
        assert isinstance(parse_object(body), dict)
    except ApiError as error:
        check_error(error, error.code)
