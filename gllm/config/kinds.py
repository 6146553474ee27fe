"""What a person may write for a value, and the value it means.

The same checks serve text from the command line, values from YAML and Python keywords.
This module does not know which option a value is for, nor where it was written.
"""

import math
import os
import re
from fractions import Fraction

from pydantic import BeforeValidator

MAX_INT32 = 2**31 - 1  # counts travel between the processes as little-endian int32
MAX_INT64 = 2**63 - 1

_WHOLE = re.compile(r"([+-]?[0-9]+(?:\.[0-9]+)?)(k|m|g|t|K|M|G|T|KiB|MiB|GiB|TiB)?")
_SCALE = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SCALE |= {suffix: 2**bits for bits, letter in ((10, "K"), (20, "M"), (30, "G"), (40, "T"))
           for suffix in (letter, letter + "iB")}  # fmt: skip


def whole_number(written: object) -> int:
    """An integer, also as people write it: 1k = 1000, 1K = 1KiB = 1024, 25.6k = 25600.

    ValueError for anything else, also for a fraction of one (25.6K) and for a boolean.
    """
    if isinstance(written, int) and not isinstance(written, bool):
        return written
    if isinstance(written, str) and (match := _WHOLE.fullmatch(written.strip())):
        exact = Fraction(match[1]) * _SCALE.get(match[2], 1)
        if exact.denominator == 1:
            return int(exact)
    raise ValueError("not a whole number")


def integer(low: int, high: int = MAX_INT32, *, example: str = "") -> BeforeValidator:
    """Checks an integer from low to high; the error says so in words."""
    bounds = f"of at least {low}" if high in (MAX_INT32, MAX_INT64) else f"from {low} to {high}"
    expected = f"an integer {bounds}" + (f" such as {example}" if example else "")

    def check(written: object) -> int:
        try:
            value = whole_number(written)
        except ValueError:
            raise ValueError(expected) from None
        if not low <= value <= high:
            raise ValueError(expected)
        return value

    return BeforeValidator(check)


def number(low: float, high: float = math.inf, *, above: bool = False) -> BeforeValidator:
    """Checks a number from low (or, with above, from just above it) to high."""
    bounds = f"{'above' if above else 'of at least'} {low:g}"
    expected = f"a number {bounds}" + ("" if high == math.inf else f" and at most {high:g}")

    def check(written: object) -> float:
        try:
            if isinstance(written, bool) or not isinstance(written, int | float | str):
                raise ValueError
            value = float(written)
        except (ValueError, OverflowError):
            raise ValueError(expected) from None
        in_range = low <= value <= high and not (above and value == low)
        if not in_range or math.isinf(value):  # a NaN is in no range
            raise ValueError(expected)
        return value

    return BeforeValidator(check)


def text(example: str) -> BeforeValidator:
    """Checks text that is not empty; a pathlib path counts as its text."""
    expected = f"text such as {example}"

    def check(written: object) -> str:
        value = os.fspath(written) if isinstance(written, os.PathLike) else written
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ValueError(expected)
        return value

    return BeforeValidator(check)


def spelled(other_names: dict[str, str]) -> BeforeValidator:
    """Turns other names of a choice into its own name, whatever the case; the rest passes through."""

    def own_name(written: object) -> object:
        if not isinstance(written, str):
            return written
        lower = written.strip().lower()
        return other_names.get(lower, lower)

    return BeforeValidator(own_name)
