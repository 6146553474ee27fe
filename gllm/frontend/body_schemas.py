"""JSON schemas of the fields whose shapes are checked by hand, for the OpenAPI document.

What such a schema refuses, the check refuses, too; the check may know more (a role's fields, ids that
belong together). A test holds the two together.
"""

from typing import Any

Schema = dict[str, Any]


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def strings(**limits: Any) -> Schema:
    return {"type": "array", "items": {"type": "string", "minLength": 1}, **limits}


STOP: Schema = {"anyOf": [{"type": "string", "minLength": 1}, strings(), {"type": "null"}]}
TOKENS: Schema = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
PROMPT: Schema = {
    "anyOf": [
        {"type": "string"},
        TOKENS,
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "array", "items": TOKENS, "minItems": 1},
    ]
}
TEXT_PART: Schema = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": False,
}
NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"}
SHORT: Schema = {"type": "string", "maxLength": 256}
CONTENT: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": TEXT_PART, "minItems": 1}]}
NOTHING: Schema = {"enum": [None, []]}


def closed(*needed: str, **properties: Schema) -> Schema:
    """An object with these members only."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(needed),
        "additionalProperties": False,
    }


CALL = closed(
    "id",
    "type",
    "function",
    id=SHORT,
    type={"const": "function"},
    function=closed("name", "arguments", name=NAME, arguments={"type": "string"}),
)
_IDLE = dict.fromkeys(("function_call", "audio", "refusal", "annotations", "reasoning_content"), NOTHING)


def _message(*roles: str, needed: tuple[str, ...], **own: Schema) -> Schema:
    members = {"tool_calls": NOTHING, "tool_call_id": NOTHING, "name": or_null(SHORT), **_IDLE, **own}
    return closed("role", *needed, role={"enum": list(roles)}, **members)


MESSAGE: Schema = {
    "anyOf": [
        _message("system", "developer", "user", needed=("content",), content=CONTENT),
        _message("assistant", needed=("content",), content=CONTENT),
        _message(
            "assistant",
            needed=("tool_calls",),
            content={"anyOf": [CONTENT, NOTHING]},
            tool_calls={"type": "array", "items": CALL, "minItems": 1, "maxItems": 128},
        ),
        _message("tool", needed=("content", "tool_call_id"), content=CONTENT, tool_call_id=SHORT),
    ]
}
MESSAGES: Schema = {"type": "array", "items": MESSAGE, "minItems": 1}
FUNCTION: Schema = {
    "type": "object",
    "properties": {
        "name": NAME,
        "description": or_null({"type": "string"}),
        "parameters": or_null({"type": "object"}),
        "strict": {"enum": [None, False, True]},
    },
    "required": ["name"],
    "additionalProperties": False,
}
TOOLS: Schema = or_null(
    {
        "type": "array",
        "maxItems": 128,
        "items": {
            "type": "object",
            "properties": {"type": {"const": "function"}, "function": FUNCTION},
            "required": ["type", "function"],
            "additionalProperties": False,
        },
    }
)
TOOL_CHOICE: Schema = {
    "anyOf": [
        {"enum": [None, "none", "auto", "required"]},
        {
            "type": "object",
            "properties": {
                "type": {"const": "function"},
                "function": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}},
                    "required": ["name"],
                    "additionalProperties": False,
                },
            },
            "required": ["type", "function"],
            "additionalProperties": False,
        },
    ]
}


# The Responses API: items and flat functions.
def _open(*needed: str, **properties: Schema) -> Schema:
    """An object with these members, and others that change nothing."""
    return {"type": "object", "properties": properties, "required": list(needed)}


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
# What limits the text of an answer.
NULL: Schema = {"type": "null"}
RESPONSE_FORMAT: Schema = or_null(
    {
        "anyOf": [
            {
                "type": "object",
                "properties": {"type": {"enum": ["text", "json_object"]}},
                "required": ["type"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {
                    "type": {"const": "json_schema"},
                    "json_schema": {
                        "type": "object",
                        "properties": {
                            "name": {"type": ["string", "null"]},
                            "description": {"type": ["string", "null"]},
                            "schema": {"type": ["object", "boolean"]},
                            "strict": {"type": ["boolean", "null"]},
                        },
                        "required": ["schema"],
                        "additionalProperties": False,
                    },
                },
                "required": ["type", "json_schema"],
                "additionalProperties": False,
            },
        ]
    }
)
JSON_SCHEMA: Schema = {"type": ["object", "boolean", "string", "null"]}
EXPRESSION: Schema = or_null({"type": "string", "minLength": 1})
CHOICE: Schema = or_null(strings(minItems=1, maxItems=4096))
GRAMMAR_BACKEND: Schema = {"enum": ["auto", "guidance", "llguidance", None]}
STRUCTURED_OUTPUTS: Schema = or_null(
    {
        "type": "object",
        "properties": {
            "json": JSON_SCHEMA,
            "regex": EXPRESSION,
            "choice": CHOICE,
            "grammar": EXPRESSION,
            "json_object": {"type": ["boolean", "null"]},
            "disable_any_whitespace": {"type": ["boolean", "null"]},
            "disable_fallback": {"type": ["boolean", "null"]},
            "disable_additional_properties": {"enum": [False, None]},
            "whitespace_pattern": NULL,
            "structural_tag": NULL,
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
