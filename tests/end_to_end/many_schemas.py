"""Two hundred JSON schemas of many kinds, all of which an answer of some hundred tokens can satisfy.

`SCHEMAS` maps a name to a schema. Written out where the kind is special, varied where it is regular.
"""

from itertools import combinations
from typing import Any

Schema = Any


def record(required: list[str] | None = None, **properties: Schema) -> Schema:
    """An object with these properties and no others; all of them are required unless told."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


def listing(items: Schema, low: int = 0, high: int = 3) -> Schema:
    return {"type": "array", "items": items, "minItems": low, "maxItems": high}


ENDLESS = ("a tree", "a chain", "itself")  # what refers to itself may go on for ever
WORD: Schema = {"type": "string", "pattern": "^[a-z]{1,8}$"}
SHORT: Schema = {"type": "string", "maxLength": 12}
SMALL: Schema = {"type": "integer", "minimum": 0, "maximum": 99}


def _numbers() -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for low, high in [(0, 0), (0, 9), (-5, 5), (10, 99), (-1000, -1), (7, 123456), (1900, 2100), (-3, 250)]:
        found[f"integer of {low} to {high}"] = {"type": "integer", "minimum": low, "maximum": high}
        found[f"integer between {low - 1} and {high + 1}"] = {
            "type": "integer",
            "exclusiveMinimum": low - 1,
            "exclusiveMaximum": high + 1,
        }
    for low, high in [(0, 1), (-1.5, 1.5), (0.25, 0.75), (10.25, 10.5), (-273.15, 1000)]:
        found[f"number of {low} to {high}"] = record(x={"type": "number", "minimum": low, "maximum": high})
        found[f"number between {low} and {high}"] = record(
            x={"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high}
        )
    for step in (2, 5, 10, 25):
        found[f"multiple of {step}"] = {
            "type": "integer", "multipleOf": step, "minimum": 0, "maximum": 1000,
        }  # fmt: skip
    return found


def _strings() -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for low, high in [(0, 0), (0, 1), (1, 1), (1, 5), (3, 8), (10, 20), (0, 30)]:
        found[f"string of {low} to {high} characters"] = {
            "type": "string", "minLength": low, "maxLength": high,
        }  # fmt: skip
    patterns = [
        "^[A-Z]{3}$", "^[a-z]+@[a-z]+\\.(com|org)$", "^\\d{3}-\\d{4}$", "^#[0-9a-f]{6}$", "^(yes|no|maybe)$",
        "^[A-Z][a-z]{2,9}( [A-Z][a-z]{2,9})?$",
        "^\\+?[0-9]{5,9}$", "^v\\d+\\.\\d+\\.\\d+$", "^[^\\s\"\\\\]{1,6}$",
        "^\\w{2,6}$",
        "^(?:[01]\\d|2[0-3]):[0-5]\\d$", "^a.c$", "^[äöü]{2,4}$", "^日本(語|人)?$", "^(ab|cd){1,3}$",
        "^[a-c]*$",
    ]  # fmt: skip
    for pattern in patterns:
        # Open-ended ones get an end, which a pattern of the engine's kind may be joined with.
        found[f"pattern {pattern}"] = record(x={"type": "string", "pattern": pattern, "maxLength": 24})
    for form in ("date", "time", "date-time", "uuid", "ipv4", "duration"):
        found[f"format {form}"] = record(x={"type": "string", "format": form, "maxLength": 40})
    for form in ("email", "hostname", "ipv6", "uri"):
        found[f"format {form}"] = record(x={"type": "string", "format": form, "maxLength": 24})
    return found


def _constants() -> dict[str, Schema]:
    values: list[Any] = [
        0, -17, 2.5, True, False, None, "", "plain", "with \"quotes\" and \\", "new\nline\ttab", "über",
        "日本語", "😀 and 👩‍👩‍👧", "/slashes/", [], [1, "two", None], {}, {"a": {"b": [1.5, False]}},
        "\u0001 control", "<|im_end|></s>",
    ]  # fmt: skip
    found: dict[str, Schema] = {f"const {value!r}": {"const": value} for value in values}
    found |= {f"member {value!r}": record(before=SMALL, it={"const": value}) for value in values[::3]}
    found["enum of words"] = {"enum": ["red", "green", "blue"]}
    found["enum of one"] = {"enum": ["only"]}
    found["enum of like beginnings"] = {"enum": ["a", "ab", "abc", "abd", "b"]}
    found["enum of kinds"] = {"enum": [1, "1", None, True, [1], {"a": 1}]}
    found["enum of numbers"] = record(x={"enum": [1, 10, 100, 1000, -1]})
    found["enum of a type"] = {"type": "string", "enum": ["x", "y"]}
    found["enum in unicode"] = record(
        város={"enum": ["Budapest", "Győr", "Pécs"]}, 国={"enum": ["日本", "中国"]}
    )
    found["enum of many"] = {"enum": [f"code-{number:03}" for number in range(300)]}
    return found


def _types() -> dict[str, Schema]:
    found: dict[str, Schema] = {
        "boolean": {"type": "boolean"},
        "null": {"type": "null"},
        "true or false or null": {"type": ["boolean", "null"]},
        "word or null": record(x={"type": ["string", "null"], "maxLength": 5}),
        "integer or null": record(x={"type": ["integer", "null"], "minimum": 0, "maximum": 9}),
        "with words about it": {
            "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.com/x",
            "$comment": "none", "title": "T", "description": "D", "default": {}, "examples": [{}],
            **record(a=SMALL),
        },
    }  # fmt: skip
    return found


def _arrays() -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    items = {"integers": SMALL, "words": WORD, "booleans": {"type": "boolean"}, "nulls": {"type": "null"}}
    for name, item in items.items():
        for low, high in [(0, 2), (1, 1), (2, 4), (5, 6)]:
            found[f"{low} to {high} {name}"] = listing(item, low, high)
    found["empty array"] = listing(SMALL, 0, 0)
    found["matrix"] = listing(listing(SMALL, 2, 2), 2, 2)
    found["cube"] = listing(listing(listing({"type": "boolean"}, 1, 2), 1, 2), 1, 2)
    found["tuple"] = {
        "type": "array", "prefixItems": [WORD, SMALL, {"type": "boolean"}], "items": False,
        "minItems": 3, "maxItems": 3,
    }  # fmt: skip
    found["tuple with a rest"] = {
        "type": "array", "prefixItems": [WORD], "items": SMALL, "minItems": 2, "maxItems": 4,
    }  # fmt: skip
    found["array of records"] = listing(record(id=SMALL, tag=WORD), 1, 3)
    found["array of either"] = listing({"anyOf": [SMALL, WORD]}, 2, 4)
    return found


def _objects() -> dict[str, Schema]:
    found: dict[str, Schema] = {
        "empty object": record(),
        "person": record(name=SHORT, age=SMALL, tags=listing(WORD)),
        "optional members": record(["a"], a=SMALL, b=WORD, c={"type": "null"}),
        "none required": record([], a=SMALL, b=WORD),
        "required in another order": record(["c", "a"], a=SMALL, b=SMALL, c=SMALL),
        "map of integers": {
            "type": "object", "patternProperties": {"^[a-z]{1,6}$": SMALL}, "additionalProperties": False,
            "minProperties": 1, "maxProperties": 3,
        },
        "map by pattern": {
            "type": "object", "patternProperties": {"^k[0-9]$": SMALL}, "additionalProperties": False,
            "maxProperties": 2,
        },
        "unicode names": record(größe=SMALL, 名前=SHORT, **{"emoji 😀": {"type": "boolean"}}),
        "awkward names": record(**{"": SMALL, "a b": SMALL, 'q"q': SMALL, "back\\slash": SMALL, "/": SMALL}),
        "typical tool": record(
            ["city", "unit"], city={"enum": ["Paris", "Rome"]}, unit={"enum": ["C", "F"]}, days=SMALL
        ),
    }  # fmt: skip
    deep: Schema = SMALL
    for depth in range(1, 13):
        deep = record(child=deep)
        found[f"nested {depth} deep"] = deep
    wide = {f"field_{number}": {"type": "boolean"} for number in range(12)}
    for count in (2, 5, 8, 12):
        found[f"{count} flags"] = record(**dict(list(wide.items())[:count]))
    found["order"] = record(
        id={"type": "string", "pattern": "^[A-Z]{2}-\\d{4}$"},
        customer=record(
            name=SHORT, address=record(street=SHORT, zip={"type": "string", "pattern": "^\\d{5}$"})
        ),
        lines=listing(
            record(sku=WORD, quantity=SMALL, price={"type": "number", "minimum": 0, "maximum": 9}), 1, 2
        ),
        paid={"type": "boolean"},
    )
    return found


def _choices() -> dict[str, Schema]:
    circle = record(kind={"const": "circle"}, radius=SMALL)
    square = record(kind={"const": "square"}, side=SMALL)
    found: dict[str, Schema] = {
        "any of kinds": {"anyOf": [SMALL, WORD, {"type": "null"}]},
        "any of records": {"anyOf": [circle, square]},
        "one of records": {"oneOf": [circle, square]},
        "one of constants": {"oneOf": [{"const": "a"}, {"const": "b"}, {"const": 3}]},
        "one of types": {"oneOf": [SMALL, SHORT]},
        "shapes": record(shapes=listing({"anyOf": [circle, square]}, 1, 3)),
        "optional by null": record(x={"anyOf": [record(y=SMALL), {"type": "null"}]}),
        "all of bounds": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}]},
        "all of records": {
            "allOf": [
                {"type": "object", "properties": {"a": SMALL}, "required": ["a"]},
                {"type": "object", "properties": {"b": SMALL}, "required": ["b"]},
            ],
            "maxProperties": 2,
        },
        "nested any of": {"anyOf": [{"anyOf": [{"const": 1}, {"const": 2}]}, listing({"const": 3}, 1, 2)]},
    }
    return found


def _references() -> dict[str, Schema]:
    word = {"$defs": {"word": WORD}}
    tree = record(["value"], value=SMALL, left={"$ref": "#/$defs/tree"}, right={"$ref": "#/$defs/tree"})
    chain = record(value=SMALL, next={"anyOf": [{"$ref": "#/$defs/chain"}, {"type": "null"}]})
    return {
        "a reference": {**word, "$ref": "#/$defs/word"},
        "references": {**word, **record(a={"$ref": "#/$defs/word"}, b={"$ref": "#/$defs/word"})},
        "a reference in an array": {**word, **listing({"$ref": "#/$defs/word"}, 1, 3)},
        "definitions": {"definitions": {"n": SMALL}, **record(n={"$ref": "#/definitions/n"})},
        "a reference to a reference": {
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": record(x=SMALL)}, "$ref": "#/$defs/a",
        },
        "a reference to a member": {**record(a=WORD, b={"$ref": "#/properties/a"})},
        "an escaped reference": {"$defs": {"a/b~c d": SMALL}, "$ref": "#/$defs/a~1b~0c%20d"},
        "a reference with more": {
            "$defs": {"n": {"type": "integer", "minimum": 0}}, "$ref": "#/$defs/n", "maximum": 9,
        },
        "a tree": {"$defs": {"tree": tree}, "$ref": "#/$defs/tree"},
        "a chain": {"$defs": {"chain": chain}, "$ref": "#/$defs/chain"},
        "itself": record(["n"], n=SMALL, more={"$ref": "#"}),
    }  # fmt: skip


def _pairs() -> dict[str, Schema]:
    kinds: dict[str, Schema] = {
        "integer": SMALL,
        "number": {"type": "number", "minimum": 0, "maximum": 99.5},
        "string": SHORT,
        "boolean": {"type": "boolean"},
        "null": {"type": "null"},
        "array": listing(SMALL, 0, 2),
        "object": record(x=WORD),
        "enum": {"enum": ["north", "south"]},
    }
    return {
        f"{one} and {other}": record(first=kinds[one], second=kinds[other])
        for one, other in combinations(kinds, 2)
    }


SCHEMAS: dict[str, Schema] = {
    **_numbers(), **_strings(), **_constants(), **_types(), **_arrays(), **_objects(), **_choices(),
    **_references(), **_pairs(),
}  # fmt: skip
