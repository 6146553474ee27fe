"""OpenAI's Responses API: the body of POST /v1/responses, and the chat that it is.

Stateless: nothing is kept of a response, so a request carries its whole conversation.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, WithJsonSchema

from gllm.frontend.adapters.schemas import FLAT_TOOL_CHOICE, FLAT_TOOLS, INPUT, TEXT
from gllm.frontend.adapters.translated import Translated, text_of
from gllm.frontend.generation_body import GenerationBody, NumTokens, Unchecked
from gllm.frontend.params import ParameterError

UNSUPPORTED = "unsupported_parameter"
TEXT_PARTS = ("input_text", "output_text", "text")
MAX_INSTRUCTIONS = 1_000_000
NAMES = {
    r"messages": "input",
    r"prompt": "input",
    r"max_(completion_)?tokens": "max_output_tokens",
    r"tools\[(\d+)\]\.function": r"tools[\1]",
    r"tool_choice\.function": "tool_choice",
    r"response_format\.json_schema": "text.format",
    r"response_format": "text.format",
}
# What would need a server that remembers, and what it says instead.
STATEFUL: Mapping[str, str] = {
    "store": "store true is not possible: this server keeps no responses",
    "background": "background true is not possible: this server keeps no responses, stream the answer",
    "previous_response_id": "previous_response_id is not possible: this server keeps no responses, send the "
    "whole conversation as input",
    "conversation": "conversation is not possible: this server keeps none, send the whole of it as input",
    "prompt": "prompt is not possible: this server keeps no templates, send instructions and input",
}


class ResponsesBody(GenerationBody):
    """POST /v1/responses"""

    ABSENT = frozenset(
        {
            "max_tokens", "n", "best_of", "logprobs", "top_logprobs", "prompt_logprobs", "echo",
            "return_token_ids", "request_id", "response_format",
        }
    )  # fmt: skip
    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **{name: (False,) if name in ("store", "background") else () for name in STATEFUL},
        "n": (1,),
        "include": ([],),
        "truncation": ("disabled",),
        "reasoning": ({},),
        "max_tool_calls": (),
        "top_logprobs": (0,),
        "context_management": (),
        "moderation": (),
    }

    input: Annotated[Unchecked, WithJsonSchema(INPUT)]
    instructions: Annotated[str, Field(max_length=MAX_INSTRUCTIONS)] | None = None
    max_output_tokens: NumTokens | None = None
    tools: Annotated[Unchecked, WithJsonSchema(FLAT_TOOLS)] = None
    tool_choice: Annotated[Unchecked, WithJsonSchema(FLAT_TOOL_CHOICE)] = None
    parallel_tool_calls: bool | None = None
    text: Annotated[Unchecked, WithJsonSchema(TEXT)] = None
    metadata: dict[str, str] | None = None

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """The request in a JSON object; raises `ParameterError`."""
        for name, sentence in STATEFUL.items():
            if body.get(name) not in (None, False):
                raise ParameterError(name, sentence, UNSUPPORTED)
        return super().read(body)

    def echoed(self) -> dict[str, Any]:
        """What a response repeats of its request."""
        tools = [{"parameters": None, "strict": None, **tool} for tool in self.tools or ()]
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "temperature": self.temperature,
            "top_p": self.top_p,
            "text": self.text or {"format": {"type": "text"}},
            "tools": tools,
            "tool_choice": self.tool_choice or "auto",
            "parallel_tool_calls": self.parallel_tool_calls is not False,
        }

    def translated(self) -> Translated:
        """The same chat; raises `ParameterError`."""
        chat = self.shared() | {"model": self.model, "messages": []}
        translated = Translated(chat, NAMES)
        if self.instructions is not None:
            translated.say("instructions", {"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            translated.say("input", {"role": "user", "content": self.input})
        elif isinstance(self.input, list) and self.input:
            for index, item in enumerate(self.input):
                _add_item(translated, f"input[{index}]", item)
        else:
            raise ParameterError("input", "input must be a string or a list of items, and not empty")
        if self.max_output_tokens is not None:
            chat["max_tokens"] = self.max_output_tokens
        if self.parallel_tool_calls is not None:
            chat["parallel_tool_calls"] = self.parallel_tool_calls
        chat["tools"] = _tools(self.tools)
        chat["tool_choice"] = _tool_choice(self.tool_choice)
        chat["response_format"] = _response_format(self.text)
        return translated


def _add_item(translated: Translated, path: str, item: Any) -> None:
    if not isinstance(item, dict):
        raise ParameterError(path, f"{path} must be an object")
    match item.get("type", "message"):
        case "message":
            role = item.get("role")
            content = text_of(f"{path}.content", item.get("content"), TEXT_PARTS)
            translated.say(path, {"role": role, "content": content})
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            messages = translated.chat["messages"]
            if not messages or messages[-1]["role"] != "assistant":
                translated.say(path, {"role": "assistant", "content": ""})
            messages[-1].setdefault("tool_calls", []).append(call)
        case "function_call_output":
            content = text_of(f"{path}.output", item.get("output"), TEXT_PARTS)
            message = {"role": "tool", "tool_call_id": item.get("call_id"), "content": content}
            translated.say(path, message)
        case "item_reference":
            raise ParameterError(
                f"{path}.type", f"{path}: this server keeps no items, send the item itself", UNSUPPORTED
            )
        case kind:
            raise ParameterError(
                f"{path}.type", f"{path} is of type {kind!r:.80}, not supported", UNSUPPORTED
            )


def _tools(tools: Any) -> Any:
    """Functions in the form of a chat; what is none is for the chat to refuse."""
    if not isinstance(tools, list):
        return tools
    return [
        {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
        if isinstance(tool, dict) and tool.get("type") == "function"
        else tool
        for tool in tools
    ]


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function" and choice.keys() == {"type", "name"}:
        return {"type": "function", "function": {"name": choice["name"]}}
    if isinstance(choice, dict):
        raise ParameterError(
            "tool_choice",
            'tool_choice must be "none", "auto", "required" or {"type": "function", "name": "..."}',
            UNSUPPORTED,
        )
    return choice


def _response_format(text: Any) -> Any:
    """`text.format` as the response_format of a chat."""
    if text is None:
        return None
    if not isinstance(text, dict) or text.keys() - {"format", "verbosity"}:
        raise ParameterError("text", 'text must be an object {"format": {"type": ...}}')
    if text.get("verbosity") not in (None, "medium"):
        raise ParameterError("text.verbosity", "text.verbosity is not supported: leave it out", UNSUPPORTED)
    form = text.get("format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        schema = {key: value for key, value in form.items() if key != "type"}
        return {"type": "json_schema", "json_schema": schema}
    return form
