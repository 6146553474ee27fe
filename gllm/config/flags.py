"""The command line of the configuration: every flag and alias, and errors that name the nearest flag.

Values are only collected here; `load` checks them, so that a flag and a file are checked alike.
This module does not know which subcommands there are.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NoReturn, get_args, get_origin

from gllm.config.errors import nearest
from gllm.config.names import FLAT
from gllm.config.schema import SECRETS, SECTIONS, options


class _Collect(argparse.Action):
    """Keeps the value under the flag as it was typed: errors and `config show` repeat that name."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        del parser
        collected: Mapping[str, object] = getattr(namespace, "config_flags", {})
        value = True if self.nargs == 0 else values
        if option_string in collected and FLAT[str(option_string)[2:]].key in SECRETS:
            value = f"{collected[str(option_string)]},{values}"  # several keys, each by its own flag
        namespace.config_flags = {**collected, str(option_string): value}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --config and every flag and alias of the configuration, grouped by section.

    After parsing, `load(namespace.config, namespace)` gives the configuration: given flags lie in
    `namespace.config_flags` and flags that were not given leave no trace. Flags that this version
    does not support are parsed, not listed, and refused by `load`.
    """
    parser.add_argument("--config", metavar="FILE", help="YAML file of the deployment; flags go before it")
    for section, fields in SECTIONS.items():
        if not fields.model_fields:
            continue
        group = parser.add_argument_group(fields.__doc__ or section)
        for name in fields.model_fields:
            key = f"{section}.{name}"
            option, default = options()[key]
            ending = "" if default in (..., None) else f" (default {default})"
            metavar = _choices(fields.model_fields[name].annotation) or option.metavar
            about = option.help + ending
            if option.flags:
                _add(group, option.flags, metavar, about)
            if option.flag_in_tokens:
                _add(group, [option.flag_in_tokens], metavar, f"{option.help}, given in tokens")
            said = {known.switch for known in FLAT.values() if known.key == key and known.switch}
            for values in sorted(said, reverse=True):
                same = f"same as {option.flags[0]} {values[0]}" if option.flags else about
                _add_switch(group, _switches(key, values), same if values[0] else f"not: {option.help}")
    for flag, known in FLAT.items():
        if known.pending:
            hide = argparse.SUPPRESS
            _add_switch(parser, [f"--{flag}"], hide) if known.switch else _add(
                parser, [f"--{flag}"], None, hide
            )


def _add(target: argparse._ActionsContainer, flags: Iterable[str], metavar: str | None, about: str) -> None:
    target.add_argument(*flags, action=_Collect, metavar=metavar, default=argparse.SUPPRESS,
                        dest=argparse.SUPPRESS, help=about)  # fmt: skip


def _add_switch(target: argparse._ActionsContainer, flags: Iterable[str], about: str) -> None:
    target.add_argument(*flags, action=_Collect, nargs=0, default=argparse.SUPPRESS,
                        dest=argparse.SUPPRESS, help=about)  # fmt: skip


def _switches(key: str, values: tuple[object, object]) -> list[str]:
    return [f"--{flag}" for flag, name in FLAT.items() if name.key == key and name.switch == values]


def _choices(annotation: Any) -> str:
    is_literal = get_origin(annotation) is Literal
    return "{" + ",".join(map(str, get_args(annotation))) + "}" if is_literal else ""


class FlagParser(argparse.ArgumentParser):
    """A parser for every `gllm` command: `_` equals `-` in flags, nothing is abbreviated, and an
    unknown flag ends the program with code 2 and the nearest flag:

        parser = FlagParser(prog="gllm")
        serve = parser.add_subparsers(dest="command").add_parser("serve")   # also a FlagParser
        serve.add_argument("model", nargs="?")
        add_flags(serve)
        namespace = parser.parse_args()
        config = load(namespace.config, namespace, model_path=namespace.model)
    """

    def __init__(self, *positional: Any, **keywords: Any) -> None:
        super().__init__(*positional, **{"allow_abbrev": False, **keywords})

    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse, except that an unknown flag is an error here, where its neighbours are known."""
        arguments = [_dashed_flag(argument) for argument in (sys.argv[1:] if args is None else args)]
        namespace, rest = super().parse_known_args(arguments, namespace)
        for argument in rest:
            if argument.startswith("--") and argument != "--":
                flag = argument.partition("=")[0]
                hint = nearest(flag, self._option_string_actions)
                self.error(f"unknown flag {flag}: {hint or f'{self.prog} --help lists the flags'}")
        return namespace, rest

    def error(self, message: str) -> NoReturn:
        """One sentence instead of a usage that is longer than the screen."""
        self.exit(2, f"{self.prog}: {message}\n")


def _dashed_flag(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value
