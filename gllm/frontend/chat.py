"""Messages to a prompt by the model's own chat template, in jinja2's sandbox.

Templates come from the operator (--chat-template, or the checkpoint) or are the family's own, never
from a request. Knows the shape of messages, nothing of HTTP.
"""

import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Ending:
    """How a prompt ends; raises `ParameterError` for what excludes itself.

    add_generation_prompt: with the beginning of an answer. continue_final_message: within the final
    message, which the model goes on to write.
    """

    add_generation_prompt: bool = True
    continue_final_message: bool = False

    def __post_init__(self) -> None:
        if self.add_generation_prompt and self.continue_final_message:
            raise ParameterError(
                "continue_final_message",
                "continue_final_message and add_generation_prompt exclude each other: "
                "set add_generation_prompt to false",
            )


ANSWER = Ending()


class ChatTemplate:
    """One compiled template with the tokenizer that it belongs to. Safe to use from several threads."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._template = _environment().from_string(source)

    @classmethod
    def find(cls, tokenizer: Tokenizer, file: str | Path | None = None) -> "ChatTemplate | None":
        """The template in `file`, else the checkpoint's, else the family's; None if there is none of them.

        Raises `StartError`.
        """
        try:
            source = (
                Path(file).read_text(encoding="utf-8") if file else tokenizer.chat_templates.get("default")
            )
            if source is not None:
                return cls(source, tokenizer)
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
        family = tokenizer.family
        if family is None:
            return None
        log.warning(
            "the checkpoint has no chat template: chats are put in the form of %s; --chat-template FILE "
            "gives another one",
            family.name,
        )
        return (_PartByPart if family.joins_ids else cls)(family.template, tokenizer)

    def render(self, messages: list[dict[str, Any]], ending: Ending = ANSWER) -> str:
        """The text of `messages`; raises `ParameterError`."""
        if not ending.continue_final_message:
            return self._render(messages, ending.add_generation_prompt)
        # Marked rather than searched for: templates may trim the text, or write it twice.
        end = f"\uf5d2{secrets.token_hex(8)}"
        final = messages[-1] | {"content": messages[-1]["content"] + end}
        text, found, _ = self._render([*messages[:-1], final], False).rpartition(end)
        if not found:
            raise ParameterError(
                "continue_final_message", "the model's chat template does not show the final message"
            )
        return text

    def encode(self, messages: list[dict[str, Any]], ending: Ending = ANSWER) -> list[int]:
        """The prompt of `messages`, which `checked_messages` gave; raises `ParameterError`."""
        guard = Guard(self._tokenizer)
        return guard.encode(self.render([guard.hide(message) for message in messages], ending))

    def _render(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
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


class _PartByPart(ChatTemplate):
    """ChatGLM's own form: the id of each role, then the tokens of its (empty) metadata line and of its
    words, each by themselves, as the model was trained. Its template only shows how that looks."""

    def encode(self, messages: list[dict[str, Any]], ending: Ending = ANSWER) -> list[int]:
        """The prompt of `messages`, which `checked_messages` gave."""
        tokenizer = self._tokenizer
        assert tokenizer.family is not None
        ids = [tokenizer.special_id(text) for text in tokenizer.family.prefix]
        line_end = tokenizer.encode_literally("\n")
        for message in messages:
            role = tokenizer.special_id(f"<|{message['role']}|>")
            ids += [role, *line_end, *tokenizer.encode_literally(message["content"])]
        if ending.add_generation_prompt:
            ids.append(tokenizer.special_id("<|assistant|>"))
        return ids


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
