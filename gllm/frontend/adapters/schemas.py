"""JSON schemas of what the Responses and the Messages API call differently, for the OpenAPI document.

As in `body_schemas`: what such a schema refuses, the check refuses, too.
"""

from gllm.frontend.body_schemas import FUNCTION, NAME, SHORT, Schema, closed, or_null


def _open(*needed: str, **properties: Schema) -> Schema:
    """An object with these members, and others that change nothing."""
    return {"type": "object", "properties": properties, "required": list(needed)}


# The Responses API: items and flat functions.
_TEXTS: Schema = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": _open(
                "type",
                "text",
                type={"enum": ["input_text", "output_text", "text"]},
                text={"type": "string"},
            ),
        },
    ]
}
ITEM: Schema = {
    "anyOf": [
        _open(
            "role",
            "content",
            type={"const": "message"},
            role={"enum": ["system", "developer", "user", "assistant"]},
            content=_TEXTS,
        ),
        _open(
            "type",
            "call_id",
            "name",
            "arguments",
            type={"const": "function_call"},
            call_id=SHORT,
            name=NAME,
            arguments={"type": "string"},
        ),
        _open(
            "type", "call_id", "output", type={"const": "function_call_output"}, call_id=SHORT, output=_TEXTS
        ),
    ]
}
INPUT: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": ITEM, "minItems": 1}]}
FLAT_TOOLS: Schema = or_null(
    {
        "type": "array",
        "maxItems": 128,
        "items": {
            "type": "object",
            "properties": {"type": {"const": "function"}, **FUNCTION["properties"]},
            "required": ["type", "name"],
            "additionalProperties": False,
        },
    }
)
FLAT_TOOL_CHOICE: Schema = {
    "anyOf": [
        {"enum": [None, "none", "auto", "required"]},
        {
            "type": "object",
            "properties": {"type": {"const": "function"}, "name": {"type": "string"}},
            "required": ["type", "name"],
            "additionalProperties": False,
        },
    ]
}
TEXT: Schema = or_null(
    {
        "type": "object",
        "properties": {
            "format": or_null({"type": "object"}),
            "verbosity": {"enum": [None, "medium"]},
        },
        "additionalProperties": False,
    }
)

# Anthropic's: contents in blocks, tools with an input_schema.
_TEXT_BLOCK = _open("type", "text", type={"const": "text"}, text={"type": "string"})
_BLOCKS_OF_TEXT: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_BLOCK}]}
_TOOL_USE = _open(
    "type", "id", "name", "input", type={"const": "tool_use"}, id=SHORT, name=NAME, input={"type": "object"}
)
_TOOL_RESULT = _open(
    "type", "tool_use_id", type={"const": "tool_result"}, tool_use_id=SHORT, content=_BLOCKS_OF_TEXT
)


def _turn(role: str, *blocks: Schema) -> Schema:
    listed = {"type": "array", "items": {"anyOf": list(blocks)}, "minItems": 1}
    content = {"anyOf": [{"type": "string"}, listed]}
    return closed("role", "content", role={"const": role}, content=content)


TURNS: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "anyOf": [_turn("user", _TEXT_BLOCK, _TOOL_RESULT), _turn("assistant", _TEXT_BLOCK, _TOOL_USE)]
    },
}
SYSTEM: Schema = or_null(_BLOCKS_OF_TEXT)
INPUT_TOOLS: Schema = or_null(
    {
        "type": "array",
        "maxItems": 128,
        "items": {
            "type": "object",
            "properties": {
                "type": {"enum": [None, "custom"]},
                "name": FUNCTION["properties"]["name"],
                "description": or_null({"type": "string"}),
                "input_schema": or_null({"type": "object"}),
                "strict": {"enum": [None, False, True]},
                "cache_control": {},
            },
            "required": ["name"],
            "additionalProperties": False,
        },
    }
)
INPUT_TOOL_CHOICE: Schema = or_null(
    {
        "type": "object",
        "properties": {
            "type": {"enum": ["auto", "any", "tool", "none"]},
            "name": {"type": "string"},
            "disable_parallel_tool_use": or_null({"type": "boolean"}),
        },
        "required": ["type"],
        "additionalProperties": False,
    }
)
