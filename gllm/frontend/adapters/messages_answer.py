"""Anthropic's Messages API: an answer as a message or as its events, and the form of its errors.

Knows the shapes; nothing of where text comes from.
"""

import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from gllm.frontend.errors import MAX_MESSAGE, ApiError
from gllm.frontend.generation import TextDelta, TextResult
from gllm.frontend.responses import Answer, Usage
from gllm.frontend.tool_calls.call import ToolCall

_to_json = json.JSONEncoder(separators=(",", ":")).encode
STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class MessagesAnswer(Answer):
    def __init__(self, model: str) -> None:
        self._head = {
            "id": f"msg_{uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": model,
        }
        self._num_prompt_tokens = 0
        self._num_blocks = 0
        self._begun = self._in_text = False
        self._last = TextDelta("", [])

    def whole(self, results: Sequence[TextResult], usage: Usage) -> bytes:
        """The message."""
        (result,) = results
        content = [_tool_use(part) if isinstance(part, ToolCall) else _text(part) for part in result.parts]
        message = self._head | {"content": content or [_text("")], **_stop(result), "usage": _usage(usage)}
        return _to_json(message).encode()

    def opening(self, num_choices: int, usage: Usage) -> bytes:
        """Nothing yet: the first event says what the cache held, which the first delta brings."""
        del num_choices
        self._num_prompt_tokens = usage.prompt_tokens
        return b""

    def event(self, index: int, delta: TextDelta, usage: Usage) -> bytes:
        """The events of one delta."""
        del index, usage
        events = b"" if self._begun else self._begin(delta.num_cached_tokens)
        if delta.text:
            if not self._in_text:
                events += self._open_block(_text(""))
                self._in_text = True
            events += self._block_event("delta", delta={"type": "text_delta", "text": delta.text})
        if delta.tool_call is not None:
            events += self._close_text() + self._open_block(_tool_use(delta.tool_call) | {"input": {}})
            written = {"type": "input_json_delta", "partial_json": delta.tool_call.arguments}
            events += self._block_event("delta", delta=written) + self._close_block()
        self._last = delta
        return events

    def closing(self, usage: Usage) -> bytes:
        """The end of the open block, and of the message."""
        events = b""
        if not self._in_text and not self._num_blocks:
            events += self._open_block(_text(""))
            self._in_text = True
        events += self._close_text()
        events += _event("message_delta", delta=_stop(self._last), usage=_usage(usage))
        return events + _event("message_stop")

    def failure(self, error: ApiError) -> bytes:
        """The last event of a stream that fails."""
        return b"event: error\ndata: " + error_body(error) + b"\n\n"

    def _begin(self, num_cached_tokens: int) -> bytes:
        self._begun = True
        usage = _usage(Usage(self._num_prompt_tokens, 0, num_cached_tokens))
        unfinished: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
        return _event("message_start", message=self._head | unfinished | {"usage": usage})

    def _open_block(self, block: dict[str, Any]) -> bytes:
        return self._block_event("start", content_block=block)

    def _close_text(self) -> bytes:
        if not self._in_text:
            return b""
        self._in_text = False
        return self._close_block()

    def _close_block(self) -> bytes:
        event = self._block_event("stop")
        self._num_blocks += 1
        return event

    def _block_event(self, what: str, **fields: Any) -> bytes:
        return _event(f"content_block_{what}", index=self._num_blocks, **fields)


def error_body(error: ApiError) -> bytes:
    """`error` in Anthropic's form."""
    kind = ERROR_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    told = {"type": kind, "message": error.sentence[:MAX_MESSAGE]}
    return _to_json({"type": "error", "error": told}).encode()


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {_to_json({'type': kind, **fields})}\n\n".encode()


def _stop(end: TextDelta | TextResult) -> dict[str, Any]:
    if end.finish_reason == "stop":
        stop = end.stop_reason if isinstance(end.stop_reason, str) else None
        return {"stop_reason": "end_turn" if stop is None else "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": STOP_REASONS.get(end.finish_reason or ""), "stop_sequence": None}


def _usage(usage: Usage) -> dict[str, Any]:
    """Anthropic counts what the cache held apart from the rest of the prompt."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _tool_use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}
