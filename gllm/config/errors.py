"""The one error of this package, and the words that its sentences share."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A configuration that cannot be obeyed; its text is a sentence with a way out."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The words "did you mean x?" for the closest known name, or an empty string when none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def shown(value: object) -> str:
    """A value as an error echoes it: as YAML writes it, never longer than a line."""
    written = str(value).lower() if isinstance(value, bool) else "null" if value is None else repr(value)
    return written if len(written) <= 80 else written[:77] + "..."
