"""Calls that a request demands: what a grammar must hold the answer to, and who reads it then.

`tool_choice` with a function: its arguments alone. "required": an array of objects with a name and
parameters. Both are JSON, whatever form the model's family would write by itself.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from gllm.frontend.params import ParameterError
from gllm.frontend.structured.wish import StructuredOutputs
from gllm.frontend.tool_calls.call import ToolParser
from gllm.frontend.tool_calls.objects import ArgumentsParser, ArrayParser
from gllm.frontend.tools import Choice, Tool, ToolUse

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
DATA = ("const", "enum", "default", "examples")  # members of a schema that hold values, not schemas


def demanded(use: ToolUse) -> StructuredOutputs | None:
    """What the text must be; None where the model chooses. Raises `ParameterError`."""
    schemas = [(tool, arguments_schema(index, tool)) for index, tool in enumerate(use.tools)]
    match use.choice:
        case Choice.NAMED:
            index, schema = next(
                (index, schema) for index, (tool, schema) in enumerate(schemas) if tool.name == use.name
            )
            return StructuredOutputs(json=schema, param=f"tools[{index}].function.parameters")
        case Choice.REQUIRED:
            calls = {
                "type": "array",
                "minItems": 1,
                "items": {"anyOf": [_call(tool.name) for tool, _ in schemas]},
                "$defs": {tool.name: _moved(schema, f"#/$defs/{tool.name}") for tool, schema in schemas},
            }
            if not use.is_parallel:
                calls["maxItems"] = 1
            return StructuredOutputs(json=calls, param="tools")
    return None


def parser_of_demanded(use: ToolUse) -> Callable[[], ToolParser]:
    """Makes the parser of one such answer."""
    return partial(ArgumentsParser if use.choice is Choice.NAMED else ArrayParser, use.names)


def arguments_schema(index: int, tool: Tool) -> dict[str, Any]:
    """The schema of the arguments of the `index`th tool, which are an object; raises `ParameterError`."""
    schema = tool.parameters
    if not schema:
        return NO_ARGUMENTS
    if schema.get("type", "object") != "object":
        path = f"tools[{index}].function.parameters.type"
        raise ParameterError(path, f"{path} must be object: arguments have names")
    return {**schema, "type": "object"}


def _call(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "parameters": {"$ref": f"#/$defs/{name}"}},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _moved(schema: Any, place: str) -> Any:
    """`schema` with its references to itself as they are when it stands at `place`."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: value if key in DATA else _moved(value, place) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = place + reference[1:]
    return moved
