"""Which JSON schemas can be kept to: every keyword in them is honoured or refused by its name.

The engine passes over keywords that it does not know (a misspelt one, say), so that an output would
not be what the schema's author means. Knows the keywords of JSON Schema 2020-12 and the older words
for the same; nothing of how a grammar is made of them.
"""

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import unquote

from gllm.frontend.parameter_error import ParameterError

MAX_DEPTH = 64  # schemas within schemas

# Keywords that hold other schemas: how to find these in the value.
MAPS = ("properties", "patternProperties", "$defs", "definitions")
LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
SCHEMAS = ("additionalProperties", "items", "additionalItems")
HONOURED = frozenset(
    {
        *MAPS, *LISTS, *SCHEMAS,
        "type", "enum", "const", "required", "format", "pattern", "minLength", "maxLength",
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
        "minItems", "maxItems", "minProperties", "maxProperties", "$ref",
    }
)  # fmt: skip
# Words about a schema, which no value can fail. OpenAPI's discriminator repeats what anyOf says.
SILENT = frozenset(
    {
        "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly",
        "$comment", "$schema", "$id", "id", "discriminator", "contentMediaType", "contentEncoding",
    }
)  # fmt: skip
KNOWN_UNSUPPORTED = frozenset(
    {
        "not", "if", "then", "else", "uniqueItems", "contains", "minContains", "maxContains",
        "propertyNames", "dependentRequired", "dependentSchemas", "dependencies",
        "unevaluatedProperties", "unevaluatedItems", "contentSchema", "$dynamicRef", "$dynamicAnchor",
        "$recursiveRef", "$recursiveAnchor", "$anchor", "$vocabulary",
    }
)  # fmt: skip
NEUTRAL = {"uniqueItems": False, "nullable": False}
FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)


def check_schema(schema: Any, where: str) -> None:
    """Raise `ParameterError` for what in `schema` cannot be kept to; `where` is the field it came in."""
    waiting: list[tuple[Any, str, int]] = [(schema, where, 0)]
    while waiting:
        item, path, depth = waiting.pop()
        if isinstance(item, bool):
            continue
        if not isinstance(item, Mapping):
            raise ParameterError(path, f"{path:.200} must be a JSON schema: an object, true or false")
        if depth > MAX_DEPTH:
            raise ParameterError(
                path, f"{where}: schemas are nested more than {MAX_DEPTH} deep: make them flatter"
            )
        for keyword, value in item.items():
            _check_keyword(keyword, value, path)
            if keyword == "$ref":
                _check_ref(value, schema, path)
        _check_bounds(item, path)
        waiting += [(inner, f"{path}.{name}", depth + 1) for name, inner in _inner(item, path)]


def _inner(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """The schemas directly within `schema`, by the path of each."""
    for keyword in MAPS:
        if keyword in schema:
            if not isinstance(schema[keyword], Mapping):
                raise ParameterError(f"{path}.{keyword}", f"{path:.200}.{keyword} must be an object")
            yield from ((f"{keyword}.{name}", inner) for name, inner in schema[keyword].items())
    for keyword in (*LISTS, *SCHEMAS):
        value = schema.get(keyword)
        if isinstance(value, list):
            yield from ((f"{keyword}[{place}]", inner) for place, inner in enumerate(value))
        elif keyword in schema and keyword in LISTS:
            raise ParameterError(f"{path}.{keyword}", f"{path:.200}.{keyword} must be a list of schemas")
        elif keyword in schema:
            yield keyword, value


def _check_keyword(keyword: str, value: Any, path: str) -> None:
    param = f"{path}.{keyword}"
    if keyword in CHECKS:
        holds, wanted = CHECKS[keyword]
        if not holds(value):
            raise ParameterError(param, f"{param:.200} must be {wanted}, got {value!r:.80}")
    if keyword in HONOURED or keyword in SILENT or (keyword.startswith("x-") and keyword != "x-guidance"):
        return
    if keyword in NEUTRAL and value is NEUTRAL[keyword]:
        return
    if keyword == "nullable":
        hint = 'say "type": [..., "null"]'
    elif keyword in KNOWN_UNSUPPORTED:
        hint = "say it in another way, or leave it out"
    else:
        near = get_close_matches(keyword[:80], sorted(HONOURED), n=1)
        hint = f"did you mean {near[0]}?" if near else "leave it out"
    raise ParameterError(
        param,
        f"{path:.200}: the schema keyword {keyword[:80]!r} is not supported in structured outputs: {hint}",
        "unsupported_parameter",
    )


def _check_bounds(schema: Mapping[str, Any], path: str) -> None:
    """The engine lets the excluded end in where it is whole and the other end is less than 1 away."""
    low, high = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    lows = [value for name in ("minimum", "exclusiveMinimum") if (value := schema.get(name)) is not None]
    highs = [value for name in ("maximum", "exclusiveMaximum") if (value := schema.get(name)) is not None]
    for keyword, end, others in (("exclusiveMinimum", low, highs), ("exclusiveMaximum", high, lows)):
        is_whole = end is not None and end == int(end)
        if is_whole and schema.get("type") != "integer" and any(0 < abs(end - other) < 1 for other in others):
            raise ParameterError(
                f"{path}.{keyword}",
                f"{path:.200}: {keyword} {end:g} with the other end of the range less than 1 away is not "
                "supported: give a minimum and a maximum that are allowed themselves",
                "unsupported_parameter",
            )


def _check_ref(ref: Any, root: Any, path: str) -> None:
    """Only what is in the schema itself can be referred to: nothing is ever fetched."""
    param = f"{path}.$ref"
    if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
        raise ParameterError(
            param, f"{path:.200}: $ref must point into the schema itself (#/$defs/NAME), got {ref!r:.80}"
        )
    target = root
    for part in ref.split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(target, Mapping) and name in target:
            target = target[name]
        elif isinstance(target, list) and name.isdecimal() and int(name) < len(target):
            target = target[int(name)]
        else:
            raise ParameterError(param, f"{path:.200}: $ref points to {ref[:80]!r}, which is not there")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


NUMBER: tuple[Callable[[Any], bool], str] = (_is_number, "a number")
COUNT: tuple[Callable[[Any], bool], str] = (_is_count, "an integer of at least 0")
CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "minimum": NUMBER,
    "maximum": NUMBER,
    "exclusiveMinimum": NUMBER,
    "exclusiveMaximum": NUMBER,
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "minLength": COUNT,
    "maxLength": COUNT,
    "minItems": COUNT,
    "maxItems": COUNT,
    "minProperties": COUNT,
    "maxProperties": COUNT,
    "pattern": (lambda value: isinstance(value, str), "a string"),
    "format": (
        lambda value: isinstance(value, str) and value in FORMATS,
        f"one of {', '.join(sorted(FORMATS))}",
    ),
    "enum": (lambda value: isinstance(value, list) and bool(value), "a list that is not empty"),
    "required": (
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
        "a list of names",
    ),
}
