"""Reads a configuration file and remembers the line of every value.

Only scalars are ever built, and mappings two levels deep where values have names, so a file full of
aliases of aliases costs nothing; a key given twice is an error, where PyYAML would silently take the
last. This module does not know which keys exist, except the names of the sections and those mappings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from gllm.config.errors import ConfigError, shown
from gllm.config.names import dashed
from gllm.config.schema import SECTIONS

WITH_NAMES = {"api-keys", "api-key", "admin-api-keys", "admin-api-key"}


@dataclass(frozen=True)
class Entry:
    """One `key: value` of a file, and the section around it (None at the top level)."""

    section: str | None
    key: str
    value: object
    place: str


@dataclass(frozen=True)
class Container:
    """Stands for a list or mapping where a plain value belongs; its items are never built."""

    word: str

    def __repr__(self) -> str:
        return self.word


def read(file: str) -> list[Entry]:
    """The entries of a file in their order, nested or flat; ConfigError with the line for anything else."""
    try:
        written = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the configuration file {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the configuration file {file} is not UTF-8 text") from None
    try:
        loader = yaml.SafeLoader(written)
        root = loader.get_single_node()
        return [] if root is None else list(_entries(file, loader, root))
    except RecursionError:
        raise ConfigError(
            f"{file} is nested too deeply: a configuration has sections and their keys"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{_line_of(file, error)}: this is not YAML: {_problem(error)}") from None


def _entries(file: str, loader: yaml.SafeLoader, root: yaml.Node) -> Iterator[Entry]:
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{_place(file, root)}: expected `key: value` lines")
    for key, node in _pairs(file, root):
        place = _place(file, node)
        if key in SECTIONS and isinstance(node, yaml.MappingNode):
            for name, inner in _pairs(file, node):
                yield Entry(key, name, _value_of(file, loader, name, inner), _place(file, inner))
            continue
        value = _value_of(file, loader, key, node)
        if key in SECTIONS and value is None:
            continue  # a section whose keys are all commented out
        if key in SECTIONS and key != "model":  # the flat form has a `model: DIR` too
            raise ConfigError(f"{place}: {key} is {shown(value)}, expected a section of `key: value` lines")
        yield Entry(None, key, value, place)


def _pairs(file: str, mapping: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
    seen: dict[str, str] = {}
    for key, value in mapping.value:
        place = _place(file, key)
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{place}: a key is {_word(key)}, expected a name")
        if first := seen.get(dashed(key.value)):
            raise ConfigError(f"{place}: {key.value} is given twice, first at {first}: remove one of them")
        seen[dashed(key.value)] = place
        yield key.value, value


def _value_of(file: str, loader: yaml.SafeLoader, key: str, node: yaml.Node) -> object:
    """The value of `key`: a scalar, or where names have values of their own a mapping two levels deep."""
    if dashed(key) not in WITH_NAMES or not isinstance(node, yaml.MappingNode):
        return _value(loader, node)
    return {
        name: {key: _value(loader, value) for key, value in _pairs(file, inner)}
        if isinstance(inner, yaml.MappingNode)
        else _value(loader, inner)
        for name, inner in _pairs(file, node)
    }


def _value(loader: yaml.SafeLoader, node: yaml.Node) -> object:
    if not isinstance(node, yaml.ScalarNode):
        return Container(_word(node))
    try:
        return loader.construct_object(node)
    except (ValueError, LookupError, AttributeError):
        return node.value  # PyYAML's slips: the date 2024-13-45, or `!!bool maybe`; as text it is ill-typed


def _word(node: yaml.Node) -> str:
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def _place(file: str, node: yaml.Node) -> str:
    return f"{file}:{node.start_mark.line + 1}"


def _line_of(file: str, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{file}:{mark.line + 1}" if mark else file


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]
