"""What a section of the schema is made of: options with their names and help, and the sizes they take.

This module does not know which options there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, ConfigDict

from gllm.config.kinds import MAX_INT64, integer

Count = Annotated[int, integer(1, example="256 or 1k")]
Bytes = Annotated[int, integer(1, MAX_INT64, example="2GiB or 512MiB")]


@dataclass(frozen=True)
class Option:
    """How people name a field: its flag first, then the aliases; flat YAML keys are the same names.

    switches: flags without a value, and the values that they and their negation set.
    flag_in_tokens: a flag that gives the field, which counts pages, in tokens.
    """

    help: str
    flags: tuple[str, ...]
    metavar: str = "N"
    switches: Mapping[str, tuple[object, object]] = field(default_factory=dict)
    flag_in_tokens: str | None = None


class Section(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
