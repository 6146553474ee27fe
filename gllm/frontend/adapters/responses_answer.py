"""OpenAI's Responses API: an answer as a response object, or as its events.

Knows the shapes; nothing of where text comes from.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from gllm.frontend.errors import ApiError
from gllm.frontend.generation import TextDelta, TextResult
from gllm.frontend.responses import Answer, Usage
from gllm.frontend.tool_calls.call import ToolCall

_to_json = json.JSONEncoder(separators=(",", ":")).encode
FAILED = {"code": "server_error", "message": "The engine gave this request up."}


class ResponsesAnswer(Answer):
    """echoed: what a response repeats of its request."""

    def __init__(self, model: str, echoed: Mapping[str, Any]) -> None:
        self._head = {
            "id": f"resp_{uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "background": False,
            "previous_response_id": None,
            "store": False,
            "service_tier": "default",
            "truncation": "disabled",
            "reasoning": {"effort": None, "summary": None},
            **echoed,
        }
        self._sequence_number = 0
        self._output: list[dict[str, Any]] = []  # whole items
        self._message: dict[str, Any] | None = None  # the open one, and its text
        self._text: list[str] = []
        self._reason: str | None = None

    def whole(self, results: Sequence[TextResult], usage: Usage) -> bytes:
        """The response object."""
        (result,) = results
        output = [_call(part) if isinstance(part, ToolCall) else _message(part) for part in result.parts]
        return _to_json(self._ended(output or [_message("")], result.finish_reason, usage)).encode()

    def opening(self, num_choices: int, usage: Usage) -> bytes:
        """The first two events."""
        del num_choices, usage
        begun = self._response("in_progress", [])
        return self._event("response.created", response=begun) + self._event(
            "response.in_progress", response=begun
        )

    def event(self, index: int, delta: TextDelta, usage: Usage) -> bytes:
        """The events of one delta."""
        del index, usage
        events = b""
        if delta.text:
            if self._message is None:
                events += self._open_message()
            self._text.append(delta.text)
            events += self._part_event("response.output_text.delta", delta=delta.text, logprobs=[])
        if delta.tool_call is not None:
            events += self._close_message() + self._call_events(delta.tool_call)
        self._reason = delta.finish_reason
        return events

    def closing(self, usage: Usage) -> bytes:
        """The end of the open message, and the response."""
        events = b"" if self._message or self._output else self._open_message()
        events += self._close_message()
        response = self._ended(self._output, self._reason, usage)
        return events + self._event(f"response.{response['status']}", response=response)

    def failure(self, error: ApiError) -> bytes:
        """The last event of a stream that fails."""
        told = {"code": "server_error", "message": error.sentence}
        return self._event("response.failed", response=self._response("failed", self._output, error=told))

    def _open_message(self) -> bytes:
        self._message = _message("")
        item = self._message | {"status": "in_progress", "content": []}
        return self._item_event("response.output_item.added", item) + self._part_event(
            "response.content_part.added", part=_text("")
        )

    def _close_message(self) -> bytes:
        if self._message is None:
            return b""
        text = "".join(self._text)
        self._text.clear()
        item = self._message | {"content": [_text(text)]}
        events = (
            self._part_event("response.output_text.done", text=text, logprobs=[])
            + self._part_event("response.content_part.done", part=_text(text))
            + self._item_event("response.output_item.done", item)
        )
        self._message = None
        self._output.append(item)
        return events

    def _call_events(self, call: ToolCall) -> bytes:
        item = _call(call)
        place = {"item_id": item["id"], "output_index": len(self._output)}
        events = (
            self._item_event("response.output_item.added", item | {"arguments": "", "status": "in_progress"})
            + self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
            + self._event(
                "response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments
            )
            + self._item_event("response.output_item.done", item)
        )
        self._output.append(item)
        return events

    def _ended(self, output: list[dict[str, Any]], reason: str | None, usage: Usage) -> dict[str, Any]:
        changes: dict[str, Any]
        match reason:
            case "length":
                changes = {"incomplete_details": {"reason": "max_output_tokens"}}
                status = "incomplete"
                output = [*output[:-1], output[-1] | {"status": "incomplete"}]
            case "abort":
                changes, status = {"error": FAILED}, "failed"
            case _:
                changes, status = {"completed_at": int(time.time())}, "completed"
        counts = {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }
        return self._response(status, output, usage=counts, **changes)

    def _response(self, status: str, output: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
        empty = {"error": None, "incomplete_details": None, "completed_at": None, "usage": None}
        return self._head | {"status": status, "output": output} | empty | changes

    def _item_event(self, kind: str, item: dict[str, Any]) -> bytes:
        return self._event(kind, output_index=len(self._output), item=item)

    def _part_event(self, kind: str, **fields: Any) -> bytes:
        assert self._message is not None
        place = {"item_id": self._message["id"], "output_index": len(self._output), "content_index": 0}
        return self._event(kind, **place, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = {"type": kind, "sequence_number": self._sequence_number, **fields}
        self._sequence_number += 1
        return f"event: {kind}\ndata: {_to_json(data)}\n\n".encode()


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message(text: str) -> dict[str, Any]:
    return {
        "type": "message",
        "id": f"msg_{uuid4().hex}",
        "role": "assistant",
        "status": "completed",
        "content": [_text(text)],
    }


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": call.id.replace("call_", "fc_"),
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": "completed",
    }
