"""Flags over file over defaults: makes one checked configuration and notes where each value is from.

Given values become settings of keys, the settings of one source must agree, and a later source
replaces an earlier one. This module does not parse YAML or a command line, and opens no model.
"""

import argparse
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gllm.config import yaml_file
from gllm.config.errors import ConfigError, nearest, shown
from gllm.config.names import Name, dashed, find, suggestion
from gllm.config.schema import SECRETS, SECTIONS, DeploymentConfig, WorkerConfig, options

logger = logging.getLogger("gllm.config")

# Secrets only: a command line can be read by every user of the machine.
VARIABLES = {"GLLM_API_KEY": "api-key", "GLLM_ADMIN_API_KEY": "admin-api-key"}
# Three ways to say how much KV cache there is. Whoever gives one replaces all that a weaker source
# said, or a file's kv_cache_memory_bytes would silently overrule --gpu-memory-utilization.
_CACHE_SIZES = ("worker.gpu_memory_utilization", "worker.kv_cache_memory_bytes", "worker.num_pages")


@dataclass(frozen=True)
class Given:
    """One value as somebody gave it.

    kind: "flag", "variable" of the environment, "key" of a file, or "option" for a keyword; section: only
    of a key.
    source: what `config show` says about it.
    """

    kind: str
    section: str | None
    name: str
    value: object
    source: str

    @property
    def path(self) -> str:
        """The name as its author knows it: --max-num-seqs, scheduler.max_num_seqs, max_num_seqs."""
        if self.kind == "flag":
            return f"--{self.name}"
        if self.kind == "variable":
            return self.source
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def written(self) -> str:
        """The beginning of a sentence about it: the name, for a key of a file with its line."""
        return f"{self.source}: {self.path}" if self.kind == "key" else self.path


@dataclass(frozen=True)
class Setting:
    """A checked value of one key."""

    key: str
    value: Any
    name: Name
    given: Given


def load(
    file: str | None, flags: Mapping[str, object] | argparse.Namespace | None = None, **keywords: object
) -> DeploymentConfig:
    """The configuration in force: flags and keywords go before environment variables (`VARIABLES`), these
    before the file, the file before the defaults.

    flags: what a parser with `add_flags` returned, or a mapping of names ("--port" or "port") to values.
    keywords: options by name, for instance model_path from a positional argument; None means not given.
    ConfigError names what is wrong and where it is written.
    """
    if isinstance(flags, argparse.Namespace):
        flags = getattr(flags, "config_flags", {})
    layers = [
        _agreed(_settings(_of_file(file) if file is not None else ())),
        _agreed(_settings(_of_environment())),
        _agreed(_settings([*_of_flags(flags or {}), *_of_keywords(keywords)])),
    ]
    merged: dict[str, Setting] = {}
    for layer in layers:
        if any(key in layer for key in _CACHE_SIZES):
            merged = {key: setting for key, setting in merged.items() if key not in _CACHE_SIZES}
        merged |= layer
    return _built(merged)


def from_options(**keywords: object) -> DeploymentConfig:
    """The configuration of the offline engine: `from_options(model=DIR, max_num_seqs=64)`."""
    return load(None, None, **keywords)


def _of_file(file: str) -> Iterator[Given]:
    for entry in yaml_file.read(file):
        yield Given("key", entry.section, entry.key, entry.value, entry.place)


def _of_environment() -> Iterator[Given]:
    for variable, name in VARIABLES.items():
        if value := os.environ.get(variable):
            yield Given("variable", None, name, value, variable)


def _of_flags(flags: Mapping[str, object]) -> Iterator[Given]:
    for name, value in flags.items():
        bare = dashed(name).removeprefix("--")
        yield Given("flag", None, bare, value, f"--{bare}")


def _of_keywords(keywords: Mapping[str, object]) -> Iterator[Given]:
    for name, value in keywords.items():
        if value is not None:
            yield Given("option", None, name, value, f"argument {name}")


def _settings(given_values: Iterable[Given]) -> Iterator[Setting]:
    """Checks every value; one that a pending option holds anyway sets nothing."""
    for given in given_values:
        name = find(given.section, given.name)
        if name is None:
            raise ConfigError(_unknown(given))
        value = _switched(given, name.switch) if name.switch else given.value
        if name.pending is None:
            yield Setting(name.key, _checked(name.key, value, given), name, given)
        elif not name.pending.is_fulfilled(value):
            raise ConfigError(_not_supported(given, name, value))
        elif name.pending.note and value is True:
            logger.warning("%s: %s", given.source, name.pending.note)


def _switched(given: Given, switch: tuple[object, object]) -> object:
    if not isinstance(given.value, bool):
        raise ConfigError(f"{given.written} is {shown(given.value)}, expected true or false")
    return switch[0] if given.value else switch[1]


@cache
def _adapter(key: str) -> TypeAdapter[Any]:
    section, _, field = key.partition(".")
    hint = get_type_hints(SECTIONS[section], include_extras=True)[field]
    return TypeAdapter(hint, config=ConfigDict(strict=True))


def _checked(key: str, value: object, given: Given) -> Any:
    try:
        return _adapter(key).validate_python(value)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        expected = [_expected(problem) for problem in problems if problem["type"] != "none_required"]
        said = "cannot be used" if key in SECRETS else f"is {shown(value)}"
        raise ConfigError(f"{given.written} {said}, expected {', or '.join(expected)}") from None


def _expected(problem: Mapping[str, Any]) -> str:
    """What pydantic's error says was expected: the words of `kinds`, or the choices of a Literal."""
    context = problem.get("ctx", {})
    return str(context.get("error") or context.get("expected") or problem["msg"])


def _unknown(given: Given) -> str:
    hint = suggestion(given.section, given.name)
    if given.kind == "key" and given.section is None:
        hint = nearest(given.name, SECTIONS) or hint
    elif given.kind == "flag":
        hint = hint.replace("did you mean ", "did you mean --")
    elif given.kind == "option":
        hint = hint.replace("-", "_")
    place = f"{given.source}: " if given.kind == "key" else ""
    return f"{place}unknown {given.kind} {given.path}" + (f": {hint}" if hint else "")


def _not_supported(given: Given, name: Name, value: object) -> str:
    assert name.pending is not None
    held = [str(held).lower() for held in name.pending.holds if held not in (None, "")]
    if name.switch or not held:  # the value says nothing, or is a secret such as an API key
        return f"{given.written} is not supported yet by this version: remove it"
    known = " or ".join(held)
    return f"{given.written} {shown(value)} is not supported yet by this version, which knows only {known}"


def _agreed(settings: Iterable[Setting]) -> dict[str, Setting]:
    """The settings of one source by key; ConfigError when two of them contradict each other."""
    by_key: dict[str, Setting] = {}
    for setting in settings:
        first = by_key.setdefault(setting.key, setting)
        if first is setting or _same(first, setting):
            continue
        number, switch = (first, setting) if setting.name.switch else (setting, first)
        if number.name.switch or not switch.name.switch or (number.value > 1) != (switch.value > 1):
            raise ConfigError(
                f"{first.given.written} and {setting.given.written} contradict each other: "
                f"both set {setting.key}; remove one of them"
            )
        by_key[setting.key] = number  # --pipe-schedule says whether, --num-micro-batches says how many
    sizes = [by_key[key] for key in _CACHE_SIZES[1:] if key in by_key and by_key[key].value is not None]
    if len(sizes) > 1:
        names = " and ".join(setting.given.written for setting in sizes)
        raise ConfigError(f"{names} both fix the size of the KV cache: remove one of them")
    return by_key


def _same(one: Setting, other: Setting) -> bool:
    return one.value == other.value and one.name.in_tokens == other.name.in_tokens


def _built(merged: Mapping[str, Setting]) -> DeploymentConfig:
    if "model.path" not in merged:
        raise ConfigError(
            "no model is given: name its directory with --model-path, or as path of model in a file"
        )
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    sources = dict.fromkeys(options(), "default")
    for key, setting in merged.items():
        section, _, field = key.partition(".")
        values[section][field] = setting.value
        sources[key] = setting.given.source
    if (pages := merged.get("worker.num_pages")) and pages.name.in_tokens:
        # Tokens are pages of one size: no device may choose another.
        worker = WorkerConfig.model_validate({**values["worker"], "num_pages": None})
        values["worker"]["page_size"] = worker.assumed_page_size
        values["worker"]["num_pages"] = math.ceil(pages.value / worker.assumed_page_size)
    return DeploymentConfig.model_validate({**values, "sources": sources})
