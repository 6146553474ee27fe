"""Checks of single values, with sentences that name them.

Knows ranges; nothing of what a value does.
"""

from collections.abc import Mapping, Sequence

from gllm.frontend.parameter_error import ParameterError
from gllm.protocol.wire import INT32_MAX


def in_range(name: str, value: object, low: float, high: float) -> None:
    # Written so that NaN fails it too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ParameterError(name, f"{name} must be a number of [{low:g}, {high:g}], got {value!r:.80}")


def integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ParameterError(name, f"{name} must be an integer of [{low}, {high}], got {value!r:.80}")


def flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ParameterError(name, f"{name} must be true or false")


def token_ids(name: str, values: object, most: int) -> None:
    """A list of at most `most` token ids."""
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise ParameterError(name, f"{name} must be a list of token ids, got {values!r:.80}")
    for token in values:
        integer(name, token, 0, INT32_MAX)
    if len(values) > most:
        raise ParameterError(name, f"{name} may hold at most {most} ids")


def biases(name: str, values: object, most: int, bound: float) -> None:
    """A number of [-bound, bound] for each of at most `most` token ids."""
    if not isinstance(values, Mapping):
        raise ParameterError(name, f"{name} must be an object of a number for each token id")
    if len(values) > most:
        raise ParameterError(name, f"{name} may hold at most {most} ids")
    for token, bias in values.items():
        integer(name, token, 0, INT32_MAX)
        in_range(name, bias, -bound, bound)
