"""Anthropic's Messages API: the bodies of POST /v1/messages and /v1/messages/count_tokens, and the chat
that they are.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, WithJsonSchema

from gllm.frontend.adapters.schemas import INPUT_TOOL_CHOICE, INPUT_TOOLS, SYSTEM, TURNS
from gllm.frontend.adapters.translated import Translated, part_text, text_of
from gllm.frontend.generation_body import GenerationBody, NumTokens, Unchecked
from gllm.frontend.messages import MAX_MESSAGES
from gllm.frontend.params import ParameterError
from gllm.frontend.tool_calls.call import dumps

UNSUPPORTED = "unsupported_parameter"
NAMES = {
    r"prompt": "messages",
    r"max_completion_tokens": "max_tokens",
    r"stop$": "stop_sequences",
    r"tools\[(\d+)\]\.function\.parameters": r"tools[\1].input_schema",
    r"tools\[(\d+)\]\.function": r"tools[\1]",
    r"tool_choice\.function": "tool_choice",
    r"parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
}
TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
WITHOUT = {"type": "disabled"}  # thinking


class Metadata(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    user_id: str | None = None


class MessagesBody(GenerationBody):
    """POST /v1/messages"""

    ABSENT = frozenset(
        {
            "stop", "stream_options", "n", "best_of", "logprobs", "top_logprobs", "prompt_logprobs", "echo",
            "response_format", "return_token_ids", "request_id",
        }
    )  # fmt: skip
    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "thinking": (WITHOUT,),
        "container": (),
        "context_management": (),
        "output_config": ({},),
        "mcp_servers": ([],),
        "service_tier": ("auto", "standard_only"),
        "cache_control": ({"type": "ephemeral"},),
    }

    max_tokens: NumTokens
    messages: Annotated[Unchecked, WithJsonSchema(TURNS)]
    system: Annotated[Unchecked, WithJsonSchema(SYSTEM)] = None
    stop_sequences: list[str] | None = None
    tools: Annotated[Unchecked, WithJsonSchema(INPUT_TOOLS)] = None
    tool_choice: Annotated[Unchecked, WithJsonSchema(INPUT_TOOL_CHOICE)] = None
    metadata: Metadata | None = None

    def translated(self) -> Translated:
        """The same chat; raises `ParameterError`."""
        chat = self.shared() | {"model": self.model, "messages": [], "max_tokens": self.max_tokens}
        if self.stop_sequences:
            chat["stop"] = self.stop_sequences
        return _translated(chat, self.messages, self.system, self.tools, self.tool_choice)


class CountBody(BaseModel):
    """POST /v1/messages/count_tokens"""

    model_config = ConfigDict(strict=True, extra="forbid")
    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {"thinking": (WITHOUT,), "cache_control": ()}

    model: str
    messages: Annotated[Unchecked, WithJsonSchema(TURNS)]
    system: Annotated[Unchecked, WithJsonSchema(SYSTEM)] = None
    tools: Annotated[Unchecked, WithJsonSchema(INPUT_TOOLS)] = None
    tool_choice: Annotated[Unchecked, WithJsonSchema(INPUT_TOOL_CHOICE)] = None

    def translated(self) -> Translated:
        """The chat whose prompt is counted; raises `ParameterError`."""
        chat = {"model": self.model, "messages": []}
        return _translated(chat, self.messages, self.system, self.tools, self.tool_choice)


def _translated(chat: dict[str, Any], messages: Any, system: Any, tools: Any, tool_choice: Any) -> Translated:
    translated = Translated(chat, NAMES)
    if system is not None:
        translated.say("system", {"role": "system", "content": text_of("system", system, ("text",))})
    if not isinstance(messages, list) or not messages or len(messages) > MAX_MESSAGES:
        raise ParameterError("messages", f"messages must be a list of 1 to {MAX_MESSAGES} messages")
    for index, message in enumerate(messages):
        _add_message(translated, f"messages[{index}]", message)
    if chat["messages"][-1]["role"] == "assistant":
        # The answer goes on with the words that are put into its mouth.
        chat |= {"continue_final_message": True, "add_generation_prompt": False}
    chat["tools"] = _tools(tools)
    chat |= _tool_choice(tool_choice)
    return translated


def _add_message(translated: Translated, path: str, message: Any) -> None:
    match message:
        case {"role": "user" | "assistant" as role, "content": content} if len(message) == 2:
            pass
        case _:
            raise ParameterError(
                path, f"{path} must be an object with role, which is user or assistant, and content"
            )
    if isinstance(content, str):
        translated.say(path, {"role": role, "content": content})
        return
    if not isinstance(content, list) or not content:
        raise ParameterError(f"{path}.content", f"{path}.content must be a string or a list of blocks")
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for index, block in enumerate(content):
        at = f"{path}.content[{index}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "tool_result" and role == "user":
            _say_texts(translated, path, role, texts)
            said = text_of(f"{at}.content", block.get("content", ""), ("text",))
            if block.get("is_error"):
                said = f"Error: {said}"  # no form of a family has another way to say so
            translated.say(at, {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": said})
        elif kind == "tool_use" and role == "assistant":
            if not isinstance(block.get("input"), dict):
                raise ParameterError(f"{at}.input", f"{at}.input must be an object")
            function = {"name": block.get("name"), "arguments": dumps(block["input"])}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        else:
            texts.append(part_text(at, block, ("text",)))
    if calls:
        translated.say(path, {"role": role, "content": "\n".join(texts), "tool_calls": calls})
    else:
        _say_texts(translated, path, role, texts)


def _say_texts(translated: Translated, path: str, role: str, texts: list[str]) -> None:
    if texts:
        translated.say(path, {"role": role, "content": "\n".join(texts)})
        texts.clear()


def _tools(tools: Any) -> Any:
    """Functions in the form of a chat; what is none is for the chat to refuse."""
    if not isinstance(tools, list):
        return tools
    return [_tool(tool) if isinstance(tool, dict) else tool for tool in tools]


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        return tool
    function = {key: value for key, value in tool.items() if key not in ("type", "cache_control")}
    if "input_schema" in function:
        function["parameters"] = function.pop("input_schema")
    return {"type": "function", "function": function}


def _tool_choice(choice: Any) -> dict[str, Any]:
    if choice is None:
        return {}
    form = 'tool_choice must be an object {"type": "auto"}, "any", "none", or "tool" with a name'
    if not isinstance(choice, dict) or choice.keys() - {"type", "name", "disable_parallel_tool_use"}:
        raise ParameterError("tool_choice", form)
    asked: dict[str, Any] = {}
    if choice.get("disable_parallel_tool_use") is not None:
        alone = choice["disable_parallel_tool_use"]
        asked["parallel_tool_calls"] = not alone if isinstance(alone, bool) else alone
    match choice.get("type"):
        case "tool" if "name" in choice:
            asked["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
        case "auto" | "any" | "none" as kind if "name" not in choice:
            asked["tool_choice"] = TOOL_CHOICES[kind]
        case _:
            raise ParameterError("tool_choice", form)
    return asked
