"""What the text of an answer must be, as a caller says it. Checked for form; compiling is `grammar`'s.

Knows nothing of request bodies (fields.py), tokens or the grammar engine.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gllm.frontend.parameter_error import ParameterError

MAX_CHOICES = 4096


@dataclass(frozen=True, slots=True)
class StructuredOutputs:
    """Exactly one of the first five; raises `ParameterError` for what is none of them.

    json: a JSON schema, as an object or as text. json_object: any JSON object. regex: of the whole text,
    in the syntax of Rust's regex crate. choice: one of these texts. grammar: in Lark's syntax, or EBNF
    as llama.cpp and xgrammar write it (`root ::= ...`).
    disable_any_whitespace: JSON comes without any white space between its tokens.
    param: how errors name the field that it came from; None: by the names here.
    """

    json: Mapping[str, Any] | bool | str | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False
    param: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in KINDS if getattr(self, name) not in (None, False)]
        if self.json is False:
            given.append("json")
        if len(given) != 1:
            listed = ", ".join(given) or "none of them"
            raise ParameterError(
                self.param or "structured_outputs",
                f"give exactly one of {', '.join(KINDS)}: there is {listed}",
            )
        for name, types in (("regex", str), ("grammar", str), ("json_object", bool)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, types) or value == ""):
                wanted = "true" if types is bool else "a string that is not empty"
                raise ParameterError(self.name_of(name), f"{name} must be {wanted}, got {value!r:.80}")
        if self.json is not None and not isinstance(self.json, Mapping | bool | str):
            raise ParameterError(
                self.name_of("json"), f"the JSON schema must be an object or its text, got {self.json!r:.80}"
            )
        if not isinstance(self.disable_any_whitespace, bool):
            raise ParameterError(
                "structured_outputs.disable_any_whitespace", "disable_any_whitespace must be true or false"
            )
        if self.choice is not None:
            self._check_choice(self.choice)

    @property
    def kind(self) -> str:
        """Which of the five it is."""
        return next(name for name in reversed(KINDS) if getattr(self, name) is not None)

    @property
    def where(self) -> str:
        """The field that errors name."""
        return self.name_of(self.kind)

    def name_of(self, field: str) -> str:
        return self.param or f"structured_outputs.{field}"

    def schema(self) -> Any:
        """The JSON schema, read if it came as text; raises `ParameterError`."""
        if self.json_object:
            return {"type": "object"}
        if not isinstance(self.json, str):
            return self.json
        try:
            return json.loads(self.json)
        except (ValueError, RecursionError):
            raise ParameterError(
                self.where, f"{self.where} is a text, but not one of JSON: give the schema as an object"
            ) from None

    def _check_choice(self, choice: Any) -> None:
        if isinstance(choice, str) or not isinstance(choice, Sequence) or not choice:
            raise ParameterError(self.name_of("choice"), "choice must be a list of strings, at least one")
        if any(not isinstance(text, str) or not text for text in choice):
            raise ParameterError(self.name_of("choice"), "every choice must be a string that is not empty")
        if len(choice) > MAX_CHOICES:
            raise ParameterError(
                self.name_of("choice"), f"{len(choice)} choices, at most {MAX_CHOICES} are possible"
            )


KINDS = ("json", "regex", "choice", "grammar", "json_object")
