"""The JSON of answers, whole and as server-sent events.

Knows OpenAI's shapes; nothing of where text comes from. An event is put together from parts that
are encoded once a stream: this is the hot path, one event a commit and request.
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from gllm.frontend.errors import ApiError
from gllm.frontend.generation import TextDelta, TextResult
from gllm.frontend.tool_calls.call import ToolCall

VERSION = version("gllm")
FINGERPRINT = f"gllm-{VERSION}"
DONE = b"data: [DONE]\n\n"

_to_json = json.JSONEncoder(separators=(",", ":")).encode
_text = json.encoder.encode_basestring_ascii  # JSON of a string, by one C call


@dataclass(slots=True)
class Usage:
    """Tokens of one request: its prompts, and all that was generated, shown or not."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


class Answer(ABC):
    """The form of one request's answer, whole or as events."""

    @abstractmethod
    def whole(self, results: Sequence[TextResult], usage: Usage) -> bytes:
        """The answer of a request that is not streamed."""

    @abstractmethod
    def opening(self, num_choices: int, usage: Usage) -> bytes:
        """The events before any text; `usage` counts the prompts."""

    @abstractmethod
    def event(self, index: int, delta: TextDelta) -> bytes:
        """The event of one delta; nothing where it has nothing to show."""

    @abstractmethod
    def closing(self, usage: Usage) -> bytes:
        """The events after all text."""

    @abstractmethod
    def failure(self, error: ApiError) -> bytes:
        """The end of a stream that began well."""


class ChoicesAnswer(Answer):
    """OpenAI's completions and chats: a list of choices.

    with_usage: the stream ends with a chunk of counts (and all others carry a null in its place).
    """

    PREFIX: str
    OBJECT: str
    CHUNK: str

    def __init__(self, model: str, with_usage: bool = False) -> None:
        self._head = {
            "id": f"{self.PREFIX}-{uuid4().hex}",
            "object": self.OBJECT,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }
        self._with_usage = with_usage
        # Everything of an event before its choice's index, and behind its finish reason.
        self._before = f'data: {_to_json(self._head | {"object": self.CHUNK})[:-1]},"choices":[{{"index":'
        self._after = '}],"usage":null}\n\n' if with_usage else "}]}\n\n"

    @abstractmethod
    def choice(self, index: int, result: TextResult) -> dict[str, Any]:
        """One choice of a whole answer."""

    @abstractmethod
    def content(self, index: int, delta: TextDelta) -> str:
        """The JSON members of a choice that hold what a delta shows."""

    def whole(self, results: Sequence[TextResult], usage: Usage) -> bytes:
        """The choices in the order of their prompts."""
        choices = [
            self.choice(index, result)
            | {"logprobs": None, "finish_reason": result.finish_reason, "stop_reason": result.stop_reason}
            for index, result in enumerate(results)
        ]
        return _to_json(self._head | {"choices": choices, "usage": usage.as_json()}).encode()

    def opening(self, num_choices: int, usage: Usage) -> bytes:
        """Nothing, but for chats."""
        del num_choices, usage
        return b""

    def event(self, index: int, delta: TextDelta) -> bytes:
        """One chunk; nothing where the delta has nothing to show."""
        if delta.finish_reason is not None:
            end = f'"{delta.finish_reason}","stop_reason":{_to_json(delta.stop_reason)}'
        elif delta.text or delta.tool_call is not None:
            end = "null"
        else:
            return b""
        shown = self.content(index, delta)
        return (f'{self._before}{index},{shown},"logprobs":null,"finish_reason":{end}{self._after}').encode()

    def closing(self, usage: Usage) -> bytes:
        """A chunk with the counts, if asked for, and the mark of the end."""
        if not self._with_usage:
            return DONE
        chunk = self._head | {"object": self.CHUNK, "choices": [], "usage": usage.as_json()}
        return f"data: {_to_json(chunk)}\n\n".encode() + DONE

    def failure(self, error: ApiError) -> bytes:
        """The error, and the mark of the end."""
        return b"data: " + error.body() + b"\n\n" + DONE


class CompletionAnswer(ChoicesAnswer):
    PREFIX, OBJECT, CHUNK = "cmpl", "text_completion", "text_completion"

    def choice(self, index: int, result: TextResult) -> dict[str, Any]:
        return {"index": index, "text": result.text}

    def content(self, index: int, delta: TextDelta) -> str:
        del index
        return f'"text":{_text(delta.text)}'


class ChatAnswer(ChoicesAnswer):
    PREFIX, OBJECT, CHUNK = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, model: str, with_usage: bool = False) -> None:
        super().__init__(model, with_usage)
        self._num_calls: dict[int, int] = {}  # of each choice, so far

    def choice(self, index: int, result: TextResult) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": result.text, "refusal": None}
        if calls := result.tool_calls:
            message["content"] = result.text or None
            message["tool_calls"] = [_call(call) for call in calls]
        return {"index": index, "message": message}

    def content(self, index: int, delta: TextDelta) -> str:
        if delta.tool_call is None:
            return f'"delta":{{"content":{_text(delta.text)}}}' if delta.text else '"delta":{}'
        number = self._num_calls.get(index, 0)
        self._num_calls[index] = number + 1
        return f'"delta":{_to_json({"tool_calls": [{"index": number} | _call(delta.tool_call)]})}'

    def opening(self, num_choices: int, usage: Usage) -> bytes:
        """The role of each choice."""
        del usage
        role = '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'
        return b"".join(f"{self._before}{index},{role}{self._after}".encode() for index in range(num_choices))


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
