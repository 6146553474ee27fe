"""Messages to a prompt by the model's own chat template, in jinja2's sandbox.

Templates come from the operator (the checkpoint, or --chat-template), never from a request. Knows
the shape of messages, nothing of HTTP.
"""

import json
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gllm.frontend.guard import Guard
from gllm.frontend.params import ParameterError
from gllm.frontend.tokenizer import Tokenizer
from gllm.process import StartError

log = logging.getLogger("gllm")

MAX_MESSAGES = 4096
MAX_NAME = 256
# OpenAI's newer word for the system's voice; templates know the older one.
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
LATER_FIELDS = ("tool_calls", "tool_call_id", "function_call", "audio", "refusal", "reasoning_content")


class ChatTemplate:
    """One compiled template with the tokenizer that it belongs to. Safe to use from several threads."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._template = _environment().from_string(source)

    @classmethod
    def find(cls, tokenizer: Tokenizer, file: str | Path | None = None) -> "ChatTemplate | None":
        """The template in `file`, else the checkpoint's; None if there is neither. Raises `StartError`."""
        try:
            source = (
                Path(file).read_text(encoding="utf-8") if file else tokenizer.chat_templates.get("default")
            )
            return None if source is None else cls(source, tokenizer)
        except jinja2.TemplateSyntaxError as error:
            where = file or "of the checkpoint"
            raise StartError(
                f"the chat template {where} has an error in line {error.lineno}: {error.message}: "
                "mend it, or give another one with --chat-template FILE"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise StartError(
                f"the chat template {file} cannot be read ({type(error).__name__}): give a text file"
            ) from None

    def render(self, messages: list[dict[str, Any]]) -> str:
        """The text of `messages` with the beginning of the answer; raises `ParameterError`."""
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **self._tokenizer.special_tokens,
            )
        except _Raised as error:
            raise ParameterError(
                "messages", f"the model's chat template refuses these messages: {error!s:.200}"
            ) from None
        # A template is a program over the user's messages: whatever it stumbles over is theirs to change.
        except Exception as error:
            log.warning("the chat template failed: %s: %s", type(error).__name__, error)
            raise ParameterError(
                "messages", "the model's chat template cannot render these messages: try simpler ones"
            ) from None

    def encode(self, messages: list[dict[str, Any]]) -> list[int]:
        """The prompt of `messages`, which `checked_messages` gave; raises `ParameterError`."""
        guard = Guard(self._tokenizer)
        return guard.encode(self.render([guard.hide(message) for message in messages]))


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


def _checked(path: str, message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ParameterError(path, f"{path} must be an object with role and content")
    for key, value in message.items():
        if key in LATER_FIELDS and value not in (None, []):
            raise ParameterError(
                f"{path}.{key}", f"{path}.{key} is not supported yet: leave it out", "unsupported_parameter"
            )
        if key not in ("role", "content", "name", *LATER_FIELDS):
            raise ParameterError(
                f"{path}.{key:.80}",
                f"{path} has an unknown field {key:.80}: known are role, content and name",
                "unknown_parameter",
            )
    role = message.get("role")
    if role in ("tool", "function"):
        raise ParameterError(
            f"{path}.role", f"{path}.role {role} is not supported yet", "unsupported_parameter"
        )
    if not isinstance(role, str) or role not in ROLES:
        raise ParameterError(f"{path}.role", f"{path}.role must be one of {', '.join(ROLES)}")
    checked = {"role": ROLES[role], "content": _content(f"{path}.content", message.get("content"))}
    name = message.get("name")
    if name is not None:
        if not isinstance(name, str) or len(name) > MAX_NAME:
            raise ParameterError(
                f"{path}.name", f"{path}.name must be a string of at most {MAX_NAME} characters"
            )
        checked["name"] = name
    return checked


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
                "unsupported_parameter",
            )
        if kind is None or not isinstance(part.get("text"), str) or part.keys() - {"type", "text"}:
            raise ParameterError(
                f"{path}[{index}]", f'{path}[{index}] must be an object {{"type": "text", "text": "..."}}'
            )
        texts.append(part["text"])
    return "\n".join(texts)


class _Raised(jinja2.TemplateError):
    """The template itself refused, with a sentence for the user."""


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's words for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """What Hugging Face's templates expect to find."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    given: dict[str, Callable[..., Any]] = {"raise_exception": _raise, "strftime_now": _strftime_now}
    environment.globals.update(given)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own escapes HTML, which would change the prompt.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise _Raised(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
