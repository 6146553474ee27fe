"""Messages to a prompt by the model's own chat template, in jinja2's sandbox.

Templates come from the operator (--chat-template, or the checkpoint) or are the family's own, never
from a request. Knows the shape of messages, nothing of HTTP.
"""

import json
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gllm.frontend.glm_parts import glm_parts
from gllm.frontend.guard import Guard
from gllm.frontend.messages import uses_tools
from gllm.frontend.params import ParameterError
from gllm.frontend.tokenizer import Tokenizer
from gllm.process import StartError

log = logging.getLogger("gllm")

TOOL_USE = "tool_use"  # the name of a checkpoint's second template, for chats with tools
NO_PLACE = (
    "this model's chat template has no place for tools: leave them out, or start the server with "
    "--chat-template FILE"
)
Definitions = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a prompt ends; raises `ParameterError` for what excludes itself.

    add_generation_prompt: with the beginning of an answer. continue_final_message: within the final
    message, which the model goes on to write. template_kwargs: further variables of the template, which
    may change its end (a switch for thinking, say).
    """

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.add_generation_prompt and self.continue_final_message:
            raise ParameterError(
                "continue_final_message",
                "continue_final_message and add_generation_prompt exclude each other: "
                "set add_generation_prompt to false",
            )


ANSWER = Ending()
# What every template is given, and Python's words for it: no request sets them.
GIVEN = ("messages", "add_generation_prompt", "tools", "documents", "raise_exception", "strftime_now")


class ChatTemplate:
    """One compiled template with the tokenizer that it belongs to. Safe to use from several threads.

    with_tools: another template, for chats with tools. takes_tools: such a chat can be rendered.
    """

    def __init__(self, source: str, tokenizer: Tokenizer, with_tools: str | None = None) -> None:
        self._tokenizer = tokenizer
        environment = _environment()
        self._template = environment.from_string(source)
        self._with_tools = self._template if with_tools is None else environment.from_string(with_tools)
        names = jinja2.meta.find_undeclared_variables(environment.parse(with_tools or source))
        self.takes_tools = "tools" in names
        self._kwargs = names - set(GIVEN) - tokenizer.special_tokens.keys()

    @classmethod
    def find(cls, tokenizer: Tokenizer, file: str | Path | None = None) -> "ChatTemplate | None":
        """The template in `file`, else the checkpoint's, else the family's; None if there is none of them.

        Raises `StartError`.
        """
        try:
            if file:
                return cls(Path(file).read_text(encoding="utf-8"), tokenizer)
            shipped = tokenizer.chat_templates
            if "default" in shipped:
                return cls(shipped["default"], tokenizer, shipped.get(TOOL_USE))
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

    def render(self, messages: list[dict[str, Any]], ending: Ending = ANSWER, tools: Definitions = ()) -> str:
        """The text of `messages`; raises `ParameterError`."""
        if not ending.continue_final_message:
            return self._render(messages, ending.add_generation_prompt, tools, ending.template_kwargs)
        # Marked rather than searched for: templates may trim the text, or write it twice.
        end = f"\uf5d2{secrets.token_hex(8)}"
        final = messages[-1] | {"content": messages[-1]["content"] + end}
        text, found, _ = self._render(
            [*messages[:-1], final], False, tools, ending.template_kwargs
        ).rpartition(end)
        if not found:
            raise ParameterError(
                "continue_final_message", "the model's chat template does not show the final message"
            )
        return text

    def encode(
        self, messages: list[dict[str, Any]], ending: Ending = ANSWER, tools: Definitions = ()
    ) -> list[int]:
        """The prompt of `messages`, which `checked_messages` gave, with `tools`, as a request defines them.

        Raises `ParameterError`.
        """
        if not self.takes_tools:
            if tools:
                raise ParameterError("tools", NO_PLACE, "unsupported_parameter")
            for index, message in enumerate(messages):
                if uses_tools(message):
                    raise ParameterError(f"messages[{index}]", NO_PLACE, "unsupported_parameter")
        for name in ending.template_kwargs:
            if name not in self._kwargs:
                known = ", ".join(sorted(self._kwargs)) or "none"
                raise ParameterError(
                    "chat_template_kwargs",
                    f"the model's chat template has no variable {name:.80} to be set: it has {known}",
                )
        return self._encode(messages, ending, tools)

    def _encode(self, messages: list[dict[str, Any]], ending: Ending, tools: Definitions) -> list[int]:
        guard = Guard(self._tokenizer)
        hidden = [guard.hide(message) for message in messages]
        ending = replace(ending, template_kwargs=guard.hide(dict(ending.template_kwargs)))
        return guard.encode(self.render(hidden, ending, [guard.hide(tool) for tool in tools]))

    def _render(
        self,
        messages: list[dict[str, Any]],
        add_generation_prompt: bool,
        tools: Definitions,
        kwargs: Mapping[str, Any],
    ) -> str:
        try:
            return (self._with_tools if tools else self._template).render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                tools=tools or None,
                documents=None,
                **self._tokenizer.special_tokens,
                **kwargs,
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
    """ChatGLM's own form: the id of each role, then the tokens of its metadata line and of its words, each
    by themselves, as the model was trained. Its template only shows how that looks, without tools."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        super().__init__(source, tokenizer)
        self.takes_tools = True
        self._kwargs = set()

    def _encode(self, messages: list[dict[str, Any]], ending: Ending, tools: Definitions) -> list[int]:
        tokenizer = self._tokenizer
        family = tokenizer.family
        assert family is not None
        ids = [tokenizer.special_id(text) for text in family.prefix]
        for role, metadata, words in glm_parts(messages, tools, family.tool_form):
            ids.append(tokenizer.special_id(f"<|{role}|>"))
            ids += tokenizer.encode_literally(f"{metadata}\n")
            ids += tokenizer.encode_literally(words)
        if ending.add_generation_prompt:
            ids.append(tokenizer.special_id("<|assistant|>"))
        return ids


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
