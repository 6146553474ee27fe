"""The fields of a request's body that limit the text of its answer: OpenAI's, vLLM's and SGLang's.

All of them become one `StructuredOutputs`. Knows bodies; nothing of grammars.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, WithJsonSchema

from gllm.frontend.body_schemas import (
    CHOICE,
    EXPRESSION,
    GRAMMAR_BACKEND,
    JSON_SCHEMA,
    RESPONSE_FORMAT,
    STRUCTURED_OUTPUTS,
)
from gllm.frontend.parameter_error import ParameterError
from gllm.frontend.structured.wish import KINDS, StructuredOutputs

# Fields whose shapes are unions are checked by hand: pydantic's errors for unions help nobody.
Unchecked = Any

# Field of the body: what it says. The older names of vLLM, and SGLang's.
SINGLE = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "json_schema": "json",
    "regex": "regex",
    "ebnf": "grammar",
}
BACKENDS = ("auto", "guidance", "llguidance")
# Members of vLLM's `structured_outputs` that ask for nothing with these values.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "disable_fallback": (True, False),
    "disable_additional_properties": (False,),
    "whitespace_pattern": (),
    "structural_tag": (),
}


class StructuredBody(BaseModel):
    """The fields, for bodies that have them. At most one of them limits the answer."""

    model_config = ConfigDict(strict=True, extra="forbid")

    response_format: Annotated[Unchecked, WithJsonSchema(RESPONSE_FORMAT)] = None
    structured_outputs: Annotated[Unchecked, WithJsonSchema(STRUCTURED_OUTPUTS)] = None
    guided_json: Annotated[Unchecked, WithJsonSchema(JSON_SCHEMA)] = None
    guided_regex: Annotated[Unchecked, WithJsonSchema(EXPRESSION)] = None
    guided_choice: Annotated[Unchecked, WithJsonSchema(CHOICE)] = None
    guided_grammar: Annotated[Unchecked, WithJsonSchema(EXPRESSION)] = None
    guided_decoding_backend: Annotated[str | None, WithJsonSchema(GRAMMAR_BACKEND)] = None
    json_schema: Annotated[Unchecked, WithJsonSchema(JSON_SCHEMA)] = None
    regex: Annotated[Unchecked, WithJsonSchema(EXPRESSION)] = None
    ebnf: Annotated[Unchecked, WithJsonSchema(EXPRESSION)] = None

    def structured(self) -> StructuredOutputs | None:
        """What the answer must be, None if anything; raises `ParameterError`."""
        backend = self.guided_decoding_backend
        if backend is not None and backend not in BACKENDS:
            raise ParameterError(
                "guided_decoding_backend",
                f"guided_decoding_backend must be one of {', '.join(BACKENDS)}, got {backend!r:.80}",
                "unsupported_parameter",
            )
        wishes = {
            "response_format": _response_format(self.response_format),
            "structured_outputs": _structured_outputs(self.structured_outputs),
        }
        for field, kind in SINGLE.items():
            if (value := getattr(self, field)) is not None:
                wishes[field] = StructuredOutputs(**{kind: value}, param=field)
        given = [field for field, wish in wishes.items() if wish is not None]
        if len(given) > 1:
            raise ParameterError(given[1], f"{given[0]} and {given[1]} both limit the answer: give only one")
        return wishes[given[0]] if given else None


def _response_format(given: Any) -> StructuredOutputs | None:
    """OpenAI's: text, json_object or json_schema. `strict` or not, the schema is always kept to."""
    if given is None:
        return None
    if not isinstance(given, Mapping) or not isinstance(given.get("type"), str):
        raise ParameterError("response_format", 'response_format must be an object with a "type"')
    kind = given["type"]
    members = {"type", "json_schema"} if kind == "json_schema" else {"type"}
    _known(given, members, "response_format")
    match kind:
        case "text":
            return None
        case "json_object":
            return StructuredOutputs(json_object=True, param="response_format")
        case "json_schema":
            return _json_schema(given.get("json_schema"))
    raise ParameterError(
        "response_format.type",
        f"response_format.type must be text, json_object or json_schema, got {kind!r:.80}",
        "unsupported_parameter",
    )


def _json_schema(given: Any) -> StructuredOutputs:
    where = "response_format.json_schema"
    if not isinstance(given, Mapping):
        raise ParameterError(where, f"{where} must be an object with a name and a schema")
    _known(given, {"name", "description", "schema", "strict"}, where)
    for name, kind, wanted in (
        ("name", str, "a string"),
        ("description", str, "a string"),
        ("strict", bool, "true or false"),
    ):
        if given.get(name) is not None and not isinstance(given[name], kind):
            raise ParameterError(f"{where}.{name}", f"{where}.{name} must be {wanted}")
    schema = given.get("schema")
    if not isinstance(schema, Mapping | bool):
        raise ParameterError(f"{where}.schema", f"{where}.schema must be a JSON schema: an object")
    return StructuredOutputs(json=schema, param=f"{where}.schema")


def _structured_outputs(given: Any) -> StructuredOutputs | None:
    """vLLM's."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ParameterError("structured_outputs", "structured_outputs must be an object")
    _known(given, {*KINDS, "disable_any_whitespace", *NEUTRAL}, "structured_outputs")
    for name, neutral in NEUTRAL.items():
        value = given.get(name)
        if value is not None and not any(value is one for one in neutral):
            param = f"structured_outputs.{name}"
            raise ParameterError(param, f"{param} is not supported: leave it out", "unsupported_parameter")
    kept = {name: value for name, value in given.items() if name not in NEUTRAL and value is not None}
    return StructuredOutputs(**kept)


def _known(given: Mapping[Any, Any], names: set[str], where: str) -> None:
    for name in given:
        if name not in names:
            param = f"{where}.{name:.80}"
            raise ParameterError(param, f"there is no field {param}: leave it out", "unknown_parameter")
