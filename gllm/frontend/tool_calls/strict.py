"""Strict tools where the model chooses: text as it likes, but a call that it begins must follow its schema.

A grammar in Lark's syntax for each form whose arguments are JSON. It allows exactly what the form's
parser reads as calls of these tools, and any text without the beginning of a call.
"""

import json
from collections.abc import Callable, Mapping, Sequence

from gllm.frontend.params import ParameterError
from gllm.frontend.structured.wish import StructuredOutputs
from gllm.frontend.tool_calls.demanded import arguments_schema
from gllm.frontend.tools import Choice, Tool, ToolUse


def strict(use: ToolUse, form: str) -> StructuredOutputs | None:
    """What the text must be; None where no tool is strict. Raises `ParameterError` for a form not of JSON."""
    where = [index for index, tool in enumerate(use.tools) if tool.is_strict]
    if use.choice is not Choice.AUTO or not where:
        return None
    if form not in GRAMMARS:
        path = f"tools[{where[0]}].function.strict"
        raise ParameterError(
            path,
            f"{path} needs a tool_choice that demands a call, since {form} does not write them as JSON",
            "unsupported_parameter",
        )
    arguments = "\n".join(
        f"arguments{index}: %json {json.dumps(arguments_schema(index, tool) if tool.is_strict else ANY)}"
        for index, tool in enumerate(use.tools)
    )
    return StructuredOutputs(grammar=f"{GRAMMARS[form](use.tools)}\n{arguments}\n", param="tools")


ANY = {"type": "object"}


def _hermes(tools: Sequence[Tool]) -> str:
    return "\n".join(
        [
            'start: (lead call SPACE? "</tool_call>")* TEXT?',
            r"lead[lazy]: /(.|\n)*<tool_call>/",
            f"call: SPACE? {_objects(tools, 'arguments')}",
            r"SPACE: /[ \n]+/",
            r"TEXT: /(.|\n)+/ & ~/(.|\n)*<tool_call>(.|\n)*/",
        ]
    )


def _llama3_json(tools: Sequence[Tool]) -> str:
    return "\n".join(
        [
            "start: (SPACE? call (SEPARATOR call)*)? | TEXT",
            f"call: {_objects(tools, 'parameters')}",
            r"SEPARATOR: /[ \n]*;[ \n]*/",
            r"SPACE: /[ \n]+/",
            r"TEXT: /\s*[^\s{](.|\n)*/",
        ]
    )


def _glm4(tools: Sequence[Tool]) -> str:
    called = [f"{json.dumps(tool.name + chr(10))} arguments{index}" for index, tool in enumerate(tools)]
    names = "|".join(tool.name.replace(".", "[.]") for tool in tools)
    return "\n".join(
        [
            f"start: (SPACE? ({' | '.join(called)}))? | TEXT",
            r"SPACE: /\n+/",
            rf"TEXT: /(.|\n)+/ & ~/\s*({names})\s*\n(.|\n)*/",
        ]
    )


def _objects(tools: Sequence[Tool], key: str) -> str:
    """Any call as an object with a name and its arguments under `key`."""
    called = [
        f"{json.dumps(f'{json.dumps(tool.name)}, {json.dumps(key)}: ')} arguments{index}"
        for index, tool in enumerate(tools)
    ]
    return f'{json.dumps("{" + json.dumps("name") + ": ")} ({" | ".join(called)}) "}}"'


GRAMMARS: Mapping[str, Callable[[Sequence[Tool]], str]] = {
    "hermes": _hermes,
    "llama3_json": _llama3_json,
    "glm4": _glm4,
}
