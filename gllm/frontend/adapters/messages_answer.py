"""Anthropic's Messages API: an answer as a message or as its events, and the form of its errors.

Knows the shapes; nothing of where text comes from.
"""

import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from gllm.frontend.answer import Answer, Usage
from gllm.frontend.errors import MAX_MESSAGE, ApiError
from gllm.frontend.text_output import TextDelta, TextResult
from gllm.frontend.tool_calls.call import CallArguments, CallStart, ToolCall, read_beginning

_to_json = json.JSONEncoder(separators=(",", ":")).encode
STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}
INVALID = "INVALID_JSON"  # Source: Anthropic's guide to fine-grained streaming of tool use
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
        self._begun = False
        self._open = ""  # the type of the open block
        self._last = TextDelta("", [])

    def whole(self, results: Sequence[TextResult], usage: Usage) -> bytes:
        """The message."""
        (result,) = results
        content = [_text(part) if isinstance(part, str) else _called(part) for part in result.parts]
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
        match delta.call:
            case CallStart(name, call_id):
                events += self._close_block() + self._open_block(_tool_use(name, call_id, {}))
            case CallArguments(text, is_end):
                written = {"type": "input_json_delta", "partial_json": text}
                events += self._block_event("delta", delta=written)
                if is_end:
                    events += self._close_block()
            case None if delta.text:
                if self._open != "text":
                    events += self._close_block() + self._open_block(_text(""))
                events += self._block_event("delta", delta={"type": "text_delta", "text": delta.text})
        self._last = delta
        return events

    def closing(self, usage: Usage) -> bytes:
        """The end of the open block, and of the message."""
        events = b""
        if not self._open and not self._num_blocks:
            events += self._open_block(_text(""))
        events += self._close_block()
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
        self._open = block["type"]
        return self._block_event("start", content_block=block)

    def _close_block(self) -> bytes:
        if not self._open:
            return b""
        event = self._block_event("stop")
        self._open = ""
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


def _called(call: ToolCall) -> dict[str, Any]:
    """Arguments that were cut off are shown as far as they go; those that are no JSON as Anthropic advises
    to tell the model of them, since its own streams may bring such too.
    """
    arguments = read_beginning(call.arguments)
    return _tool_use(call.name, call.id, {INVALID: call.arguments} if arguments is None else arguments)


def _tool_use(name: str, call_id: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}
