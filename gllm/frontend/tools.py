"""The tools of a chat and which of them the model may call: OpenAI's `tools`, `tool_choice` and
`parallel_tool_calls`, checked.

Knows nothing of how calls are written or found in text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from gllm.frontend.params import ParameterError

MAX_TOOLS = 128  # OpenAI's
MAX_DESCRIPTION = 16_384
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
FUNCTION_FIELDS = {"name", "description", "parameters", "strict"}
UNKNOWN, UNSUPPORTED = "unknown_parameter", "unsupported_parameter"


class Choice(Enum):
    """NONE: tools are left out of the prompt, and nothing is read as a call. NAMED: this one function."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"
    NAMED = "function"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function.

    definition: as the request gives it, for the chat template. parameters: the JSON schema of its
    arguments. is_strict: a call must follow that.
    """

    name: str
    definition: dict[str, Any]
    is_strict: bool = False

    @property
    def parameters(self) -> dict[str, Any]:
        """Empty where there are none."""
        return self.definition["function"].get("parameters") or {}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What may be called: `tools`, all that the model is shown; by `choice`; one only unless `is_parallel`.

    name: of the function where the choice is NAMED.
    """

    tools: Sequence[Tool] = ()
    choice: Choice = Choice.NONE
    name: str = ""
    is_parallel: bool = True

    @property
    def names(self) -> list[str]:
        """Those that may be called."""
        return [self.name] if self.choice is Choice.NAMED else [tool.name for tool in self.tools]

    @property
    def definitions(self) -> list[dict[str, Any]]:
        """For the chat template."""
        return [tool.definition for tool in self.tools]


NO_TOOLS = ToolUse()


def tool_use(tools: Any, choice: Any, is_parallel: bool | None) -> ToolUse:
    """The three fields of a request; raises `ParameterError` with the path of what is wrong."""
    checked = _tools(tools)
    name = ""
    match choice:
        case None:
            chosen = Choice.AUTO if checked else Choice.NONE
        case "none" | "auto" | "required":
            chosen = Choice(choice)
        case {"type": "function", "function": {"name": str(name)} as function} if (
            len(choice) == 2 and len(function) == 1
        ):
            chosen = Choice.NAMED
        case _:
            raise ParameterError(
                "tool_choice",
                'tool_choice must be "none", "auto", "required" or an object '
                '{"type": "function", "function": {"name": "..."}}',
            )
    if not checked and chosen in (Choice.REQUIRED, Choice.NAMED):
        raise ParameterError("tool_choice", "tool_choice demands a call, but there are no tools: give some")
    if chosen is Choice.NAMED and name not in [tool.name for tool in checked]:
        raise ParameterError("tool_choice.function.name", f"there is no tool {name!r:.80} in tools")
    if not checked or chosen is Choice.NONE:
        return NO_TOOLS
    return ToolUse(checked, chosen, name, is_parallel is not False)


def _tools(tools: Any) -> list[Tool]:
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise ParameterError("tools", "tools must be a list of functions")
    if len(tools) > MAX_TOOLS:
        raise ParameterError("tools", f"{len(tools)} tools: at most {MAX_TOOLS} are possible")
    checked = [_tool(f"tools[{index}]", tool) for index, tool in enumerate(tools)]
    seen: set[str] = set()
    for index, tool in enumerate(checked):
        if tool.name in seen:
            raise ParameterError(
                f"tools[{index}].function.name", f"two tools have the name {tool.name}: give each its own"
            )
        seen.add(tool.name)
    return checked


def _tool(path: str, tool: Any) -> Tool:
    form = f'{path} must be an object {{"type": "function", "function": {{"name": ...}}}}'
    if not isinstance(tool, dict):
        raise ParameterError(path, form)
    if tool.get("type") != "function":
        raise ParameterError(
            f"{path}.type",
            f"{path}.type must be function, got {tool.get('type')!r:.80}: other kinds of tools run at their "
            "provider's",
            UNSUPPORTED,
        )
    function = tool.get("function")
    if not isinstance(function, dict) or tool.keys() - {"type", "function"}:
        raise ParameterError(path, form)
    path += ".function"
    for field in function.keys() - FUNCTION_FIELDS:
        raise ParameterError(f"{path}.{field:.80}", f"there is no field {path}.{field:.80}", UNKNOWN)
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ParameterError(
            f"{path}.name", f"{path}.name must be 1 to 64 letters, digits, underscores, dots or dashes"
        )
    description = function.get("description")
    if description is not None and (not isinstance(description, str) or len(description) > MAX_DESCRIPTION):
        raise ParameterError(
            f"{path}.description",
            f"{path}.description must be a string of at most {MAX_DESCRIPTION} characters",
        )
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise ParameterError(f"{path}.parameters", f"{path}.parameters must be a JSON schema, an object")
    if function.get("strict") not in (None, False, True):
        raise ParameterError(f"{path}.strict", f"{path}.strict must be true or false")
    shown = {key: value for key, value in function.items() if key != "strict" and value is not None}
    return Tool(name, {"type": "function", "function": shown}, function.get("strict") is True)
