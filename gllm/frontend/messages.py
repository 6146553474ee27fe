"""The messages of a chat as templates want them, checked field by field.

Knows the shapes of OpenAI's messages; nothing of templates or tokens.
"""

from typing import Any

from gllm.frontend.params import ParameterError
from gllm.frontend.tool_calls.call import read_object
from gllm.frontend.tools import NAME, UNKNOWN, UNSUPPORTED

MAX_MESSAGES = 4096
MAX_NAME = 256
MAX_CALLS = 128  # of one message
# OpenAI's newer word for the system's voice; templates know the older one.
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
LATER_FIELDS = ("function_call", "audio", "refusal", "annotations", "reasoning_content")
CALL_FORM = '{"id": "...", "type": "function", "function": {"name": "...", "arguments": "{...}"}}'


def checked_messages(messages: Any) -> list[dict[str, Any]]:
    """`messages` of a request as templates want them; raises `ParameterError` with the field's path."""
    if not isinstance(messages, list):
        raise ParameterError("messages", "messages must be a list of objects with role and content")
    if not messages:
        raise ParameterError(
            "messages", "messages is empty: give at least one message with a role and content"
        )
    if len(messages) > MAX_MESSAGES:
        raise ParameterError("messages", f"{len(messages)} messages: at most {MAX_MESSAGES} are possible")
    return [_checked(f"messages[{index}]", message) for index, message in enumerate(messages)]


def uses_tools(message: dict[str, Any]) -> bool:
    """Whether a checked message calls a tool, or is what a tool said."""
    return message["role"] == "tool" or "tool_calls" in message


def _checked(path: str, message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ParameterError(path, f"{path} must be an object with role and content")
    role = message.get("role")
    if role == "function":
        raise ParameterError(
            f"{path}.role", f"{path}.role function is not supported: use role tool", UNSUPPORTED
        )
    if not isinstance(role, str) or role not in ROLES:
        raise ParameterError(f"{path}.role", f"{path}.role must be one of {', '.join(ROLES)}")
    own = {"assistant": "tool_calls", "tool": "tool_call_id"}.get(role, "name")
    for key, value in message.items():
        if key in (*LATER_FIELDS, "tool_calls", "tool_call_id") and key != own and value not in (None, []):
            if key in LATER_FIELDS:
                raise ParameterError(
                    f"{path}.{key}", f"{path}.{key} is not supported yet: leave it out", UNSUPPORTED
                )
            raise ParameterError(f"{path}.{key}", f"{path}.{key} does not belong to a message of role {role}")
        if key not in ("role", "content", "name", "tool_calls", "tool_call_id", *LATER_FIELDS):
            raise ParameterError(
                f"{path}.{key:.80}",
                f"{path} has an unknown field {key:.80}: known are role, content, name, tool_calls and "
                "tool_call_id",
                UNKNOWN,
            )
    calls = _calls(f"{path}.tool_calls", message.get("tool_calls")) if role == "assistant" else []
    content = message.get("content")
    # Beside calls there need not be any text.
    text = "" if calls and content in (None, []) else _content(f"{path}.content", content)
    checked: dict[str, Any] = {"role": ROLES[role], "content": text}
    if calls:
        checked["tool_calls"] = calls
    if role == "tool":
        checked["tool_call_id"] = _short(f"{path}.tool_call_id", message.get("tool_call_id"))
    if message.get("name") is not None:
        checked["name"] = _short(f"{path}.name", message["name"])
    return checked


def _calls(path: str, calls: Any) -> list[dict[str, Any]]:
    """The calls of an assistant's message; their arguments as an object, which is what templates write."""
    if calls is None:
        return []
    if not isinstance(calls, list) or len(calls) > MAX_CALLS:
        raise ParameterError(path, f"{path} must be a list of at most {MAX_CALLS} objects {CALL_FORM}")
    checked = []
    for index, call in enumerate(calls):
        at = f"{path}[{index}]"
        match call:
            case {"id": str(call_id), "type": "function",
                  "function": {"name": str(name), "arguments": str(written), **more}, **others
                  } if not more and not others:  # fmt: skip
                pass
            case _:
                raise ParameterError(at, f"{at} must be an object {CALL_FORM}")
        if not NAME.fullmatch(name):
            raise ParameterError(f"{at}.function.name", f"{at}.function.name is no name of a function")
        arguments = read_object(written or "{}")
        if arguments is None:
            raise ParameterError(
                f"{at}.function.arguments", f"{at}.function.arguments must be the JSON of an object"
            )
        function = {"name": name, "arguments": arguments}
        checked.append({"id": _short(f"{at}.id", call_id), "type": "function", "function": function})
    return checked


def _short(path: str, name: Any) -> str:
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise ParameterError(path, f"{path} must be a string of at most {MAX_NAME} characters")
    return name


def _content(path: str, content: Any) -> str:
    """The text of a message; several text parts are joined by line ends, as vLLM does."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise ParameterError(path, f"{path} must be a string or a list of text parts")
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", None):
            raise ParameterError(
                f"{path}[{index}].type",
                f"{path}[{index}] is of type {kind!r:.80}, but this model reads text only",
                UNSUPPORTED,
            )
        if kind is None or not isinstance(part.get("text"), str) or part.keys() - {"type", "text"}:
            raise ParameterError(
                f"{path}[{index}]", f'{path}[{index}] must be an object {{"type": "text", "text": "..."}}'
            )
        texts.append(part["text"])
    return "\n".join(texts)
