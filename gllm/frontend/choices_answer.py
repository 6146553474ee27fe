"""OpenAI's completions and chats: the JSON of their answers, whole and as server-sent events.

Knows the shapes; nothing of where text comes from. An event is put together from parts that are encoded
once a stream: this is the hot path, one event a commit and request.
"""

import json
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from gllm.frontend.answer import TEXT_ALONE, Answer, Shows, Usage
from gllm.frontend.errors import ApiError
from gllm.frontend.logprobs import (
    BytesOf,
    CompletionLogprobs,
    TokenLogprobs,
    chat_logprobs,
    prompt_logprobs,
)
from gllm.frontend.text_offsets import TextOffsets
from gllm.frontend.text_output import TextDelta, TextResult
from gllm.frontend.tool_calls.call import CallArguments, CallStart, ToolCall

FINGERPRINT = f"gllm-{version('gllm')}"
DONE = b"data: [DONE]\n\n"

_to_json = json.JSONEncoder(separators=(",", ":")).encode
_text = json.encoder.encode_basestring_ascii  # JSON of a string, by one C call


def no_bytes(token: int) -> bytes:
    """For answers that show no tokens."""
    raise LookupError(f"nobody said how token {token} reads")


def no_offsets(choice: int) -> TextOffsets:
    """For answers that show no tokens."""
    raise LookupError(f"nobody said how the text of choice {choice} reads")


class ChoicesAnswer(Answer):
    """OpenAI's completions and chats: a list of choices.

    bytes_of: how a token reads, for log-probabilities. name: the client's own name of the request.
    """

    PREFIX: str
    OBJECT: str
    CHUNK: str

    def __init__(
        self,
        model: str,
        shows: Shows = TEXT_ALONE,
        bytes_of: BytesOf = no_bytes,
        name: str | None = None,
    ) -> None:
        self._head = {
            "id": f"{self.PREFIX}-{name or uuid4().hex}",
            "object": self.OBJECT,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }
        self._shows = shows
        self._bytes_of = bytes_of
        self._shows_tokens = shows.logprobs or shows.token_ids
        # Everything of an event before its choice's index, and behind its finish reason.
        self._before = f'data: {_to_json(self._head | {"object": self.CHUNK})[:-1]},"choices":[{{"index":'
        self._after = '}],"usage":null}\n\n' if shows.usage else "}]}\n\n"

    @abstractmethod
    def choice(self, index: int, result: TextResult) -> dict[str, Any]:
        """One choice of a whole answer."""

    @abstractmethod
    def content(self, index: int, delta: TextDelta) -> str:
        """The JSON members of a choice that hold what a delta shows."""

    @abstractmethod
    def logprobs(self, index: int, part: TextDelta | TextResult) -> dict[str, Any]:
        """The log-probabilities of what `part` adds to a choice."""

    def whole(self, results: Sequence[TextResult], usage: Usage) -> bytes:
        """The choices in the order of their prompts."""
        choices = []
        for index, result in enumerate(results):
            choice = self.choice(index, result)
            choice["logprobs"] = self.logprobs(index, result) if self._shows.logprobs else None
            choice |= {"finish_reason": result.finish_reason, "stop_reason": result.stop_reason}
            if self._shows.token_ids:
                choice["token_ids"] = result.token_ids
            choices.append(choice)
        head = self._head | self.of_prompts(choices, results)
        return _to_json(head | {"choices": choices, "usage": usage.as_json()}).encode()

    @abstractmethod
    def of_prompts(self, choices: list[dict[str, Any]], results: Sequence[TextResult]) -> dict[str, Any]:
        """Put what is shown of prompts into the choices, or return it as members of the answer."""

    def prompt_members(self, result: TextResult) -> dict[str, Any]:
        """What is shown of one prompt."""
        members: dict[str, Any] = {}
        if self._shows.prompt_logprobs:
            positions = result.prompt_logprobs or {}
            members["prompt_logprobs"] = prompt_logprobs(result.prompt, positions, self._bytes_of)
        if self._shows.token_ids:
            members["prompt_token_ids"] = list(result.prompt)
        return members

    def opening(self, num_choices: int, usage: Usage) -> bytes:
        """Nothing, but for chats."""
        del num_choices, usage
        return b""

    def event(self, index: int, delta: TextDelta, usage: Usage) -> bytes:
        """One chunk; nothing where the delta has nothing to show."""
        if delta.finish_reason is not None:
            end = f'"{delta.finish_reason}","stop_reason":{_to_json(delta.stop_reason)}'
        elif delta.text or delta.call is not None or (self._shows_tokens and delta.token_ids):
            end = "null"
        else:
            return b""
        shown, logprobs, after = self.content(index, delta), "null", self._after
        if self._shows_tokens:
            if self._shows.logprobs:
                logprobs = _to_json(self.logprobs(index, delta))
            if self._shows.token_ids:
                end += f',"token_ids":{_to_json(delta.token_ids)}'
        if self._shows.continuous_usage:
            after = f'}}],"usage":{_to_json(usage.as_json())}}}\n\n'
        return f'{self._before}{index},{shown},"logprobs":{logprobs},"finish_reason":{end}{after}'.encode()

    def closing(self, usage: Usage) -> bytes:
        """A chunk with the counts, if asked for, and the mark of the end."""
        if not self._shows.usage:
            return DONE
        chunk = self._head | {"object": self.CHUNK, "choices": [], "usage": usage.as_json()}
        return f"data: {_to_json(chunk)}\n\n".encode() + DONE

    def failure(self, error: ApiError) -> bytes:
        """The error, and the mark of the end."""
        return b"data: " + error.body() + b"\n\n" + DONE


class CompletionAnswer(ChoicesAnswer):
    """offsets_of: makes the offsets of a choice's tokens in its text, by its index."""

    PREFIX, OBJECT, CHUNK = "cmpl", "text_completion", "text_completion"

    def __init__(
        self,
        model: str,
        shows: Shows = TEXT_ALONE,
        bytes_of: BytesOf = no_bytes,
        offsets_of: Callable[[int], TextOffsets] = no_offsets,
        name: str | None = None,
    ) -> None:
        super().__init__(model, shows, bytes_of, name)
        self._offsets_of = offsets_of
        self._logprobs: dict[int, CompletionLogprobs] = {}  # of each choice, so far

    def choice(self, index: int, result: TextResult) -> dict[str, Any]:
        return {"index": index, "text": result.text}

    def content(self, index: int, delta: TextDelta) -> str:
        del index
        return f'"text":{_text(delta.text)}'

    def logprobs(self, index: int, part: TextDelta | TextResult) -> dict[str, Any]:
        so_far = self._logprobs.get(index)
        if so_far is None:
            so_far = CompletionLogprobs(self._bytes_of, self._offsets_of(index))
            self._logprobs[index] = so_far
        echoed, positions = part.echoed, list[TokenLogprobs | None](part.logprobs)
        if echoed:
            told = part.prompt_logprobs or {}
            positions = [None, *(told[place] for place in range(1, len(echoed))), *positions]
        return so_far.piece(positions, [*echoed, *part.token_ids])

    def of_prompts(self, choices: list[dict[str, Any]], results: Sequence[TextResult]) -> dict[str, Any]:
        for choice, result in zip(choices, results, strict=True):
            choice |= self.prompt_members(result)
        return {}


class ChatAnswer(ChoicesAnswer):
    PREFIX, OBJECT, CHUNK = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(
        self,
        model: str,
        shows: Shows = TEXT_ALONE,
        bytes_of: BytesOf = no_bytes,
        name: str | None = None,
    ) -> None:
        super().__init__(model, shows, bytes_of, name)
        self._num_calls: dict[int, int] = {}  # of each choice, so far

    def choice(self, index: int, result: TextResult) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": result.text, "refusal": None}
        if calls := result.tool_calls:
            message["content"] = result.text or None
            message["tool_calls"] = [_call(call) for call in calls]
        return {"index": index, "message": message}

    def content(self, index: int, delta: TextDelta) -> str:
        match delta.call:
            case None:
                return f'"delta":{{"content":{_text(delta.text)}}}' if delta.text else '"delta":{}'
            case CallStart(name, call_id):
                number = self._num_calls.get(index, 0)
                self._num_calls[index] = number + 1
                call = {"index": number, **_call(ToolCall(name, "", call_id))}
                return f'"delta":{_to_json({"tool_calls": [call]})}'
            case CallArguments(text):
                number = self._num_calls[index] - 1
                more = f'{{"index":{number},"function":{{"arguments":{_text(text)}}}}}'
                return f'"delta":{{"tool_calls":[{more}]}}'

    def logprobs(self, index: int, part: TextDelta | TextResult) -> dict[str, Any]:
        del index
        return chat_logprobs(part.logprobs, self._bytes_of)

    def of_prompts(self, choices: list[dict[str, Any]], results: Sequence[TextResult]) -> dict[str, Any]:
        del choices
        return self.prompt_members(results[0])  # all choices have the same

    def opening(self, num_choices: int, usage: Usage) -> bytes:
        """The role of each choice."""
        del usage
        role = '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'
        return b"".join(f"{self._before}{index},{role}{self._after}".encode() for index in range(num_choices))


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
