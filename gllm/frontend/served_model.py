"""What is served under one name. Knows nothing of requests."""

from dataclasses import dataclass

from gllm.frontend.chat import ChatTemplate
from gllm.frontend.generation import TextEngine


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A text engine and how its model is talked to.

    name: that requests must give. chat_template: None answers chats with an error. tool_form: how the
    model writes calls of tools, a name of `tool_calls.forms`; None answers chats in which it may with an
    error.
    """

    name: str
    text: TextEngine
    chat_template: ChatTemplate | None
    tool_form: str | None = None
