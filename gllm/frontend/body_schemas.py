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
CALL: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "arguments": {"type": "string"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        },
    },
    "required": ["id", "type", "function"],
    "additionalProperties": False,
}
MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": TEXT_PART}, {"type": "null"}]},
        "name": or_null({"type": "string", "maxLength": 256}),
        "tool_calls": or_null({"type": "array", "items": CALL}),
        "tool_call_id": {"anyOf": [{"type": "string"}, {"type": "null"}, {"const": []}]},
        **{
            name: {"enum": [None, []]}
            for name in ("function_call", "audio", "refusal", "annotations", "reasoning_content")
        },
    },
    "required": ["role"],
    "additionalProperties": False,
}
MESSAGES: Schema = {"type": "array", "items": MESSAGE, "minItems": 1}
FUNCTION: Schema = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"},
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
INPUT: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}, "minItems": 1}]}
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
BLOCKS: Schema = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object", "required": ["type"]}}]
}
TURNS: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {"role": {"enum": ["user", "assistant"]}, "content": BLOCKS},
        "required": ["role", "content"],
        "additionalProperties": False,
    },
}
SYSTEM: Schema = or_null(BLOCKS)
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
