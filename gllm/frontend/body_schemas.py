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
