"""OpenAI's Responses API: an answer as a response object, or as its events.

Knows the shapes; nothing of where text comes from.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from gllm.frontend.answer import Answer, Usage
from gllm.frontend.errors import ApiError
from gllm.frontend.text_output import TextDelta, TextResult
from gllm.frontend.tool_calls.call import CallArguments, CallStart, ToolCall

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
        self._open: dict[str, Any] | None = None  # the item that is not whole, and its text or arguments
        self._written: list[str] = []
        self._reason: str | None = None

    def whole(self, results: Sequence[TextResult], usage: Usage) -> bytes:
        """The response object."""
        (result,) = results
        output = [_message(part) if isinstance(part, str) else _call(part) for part in result.parts or [""]]
        if output[-1]["type"] == "message":
            output[-1] |= _status(result.finish_reason != "length")
        return _to_json(self._ended(output, result.finish_reason, usage)).encode()

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
        match delta.call:
            case CallStart(name, call_id):
                events += self._close_item(is_whole=True) + self._open_call(ToolCall(name, "", call_id))
            case CallArguments(text, is_end):
                self._written.append(text)
                events += self._open_event("response.function_call_arguments.delta", delta=text)
                if is_end:
                    events += self._close_item(is_whole=True)
            case None if delta.text:
                if self._open is None or self._open["type"] != "message":
                    events += self._close_item(is_whole=True) + self._open_message()
                self._written.append(delta.text)
                events += self._part_event("response.output_text.delta", delta=delta.text, logprobs=[])
        self._reason = delta.finish_reason
        return events

    def closing(self, usage: Usage) -> bytes:
        """The end of the open message, and the response."""
        events = b"" if self._open or self._output else self._open_message()
        is_text = self._open is not None and self._open["type"] == "message"
        events += self._close_item(is_whole=is_text and self._reason != "length")
        response = self._ended(self._output, self._reason, usage)
        return events + self._event(f"response.{response['status']}", response=response)

    def failure(self, error: ApiError) -> bytes:
        """The last event of a stream that fails."""
        told = {"code": "server_error", "message": error.sentence}
        return self._event("response.failed", response=self._response("failed", self._output, error=told))

    def _open_message(self) -> bytes:
        self._open = _message("")
        item = self._open | {"status": "in_progress", "content": []}
        return self._item_event("response.output_item.added", item) + self._part_event(
            "response.content_part.added", part=_text("")
        )

    def _open_call(self, call: ToolCall) -> bytes:
        self._open = _call(call)
        return self._item_event("response.output_item.added", self._open | {"status": "in_progress"})

    def _close_item(self, *, is_whole: bool) -> bytes:
        """The end of the open item, if there is one."""
        if self._open is None:
            return b""
        written = "".join(self._written)
        self._written.clear()
        if self._open["type"] == "message":
            item = self._open | {"content": [_text(written)]} | _status(is_whole)
            events = self._part_event("response.output_text.done", text=written, logprobs=[])
            events += self._part_event("response.content_part.done", part=_text(written))
        else:
            item = self._open | {"arguments": written} | _status(is_whole)
            events = self._open_event(
                "response.function_call_arguments.done", name=item["name"], arguments=written
            )
        events += self._item_event("response.output_item.done", item)
        self._open = None
        self._output.append(item)
        return events

    def _ended(self, output: list[dict[str, Any]], reason: str | None, usage: Usage) -> dict[str, Any]:
        changes: dict[str, Any]
        match reason:
            case "length":
                changes = {"incomplete_details": {"reason": "max_output_tokens"}}
                status = "incomplete"
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

    def _open_event(self, kind: str, **fields: Any) -> bytes:
        assert self._open is not None
        return self._event(kind, item_id=self._open["id"], output_index=len(self._output), **fields)

    def _part_event(self, kind: str, **fields: Any) -> bytes:
        return self._open_event(kind, content_index=0, **fields)

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
    } | _status(call.is_whole)


def _status(is_whole: bool) -> dict[str, str]:
    return {"status": "completed" if is_whole else "incomplete"}
