"""Every spelling of every option, and what each one sets.

A flag `--max-num-seqs`, a flat YAML key `max-num-seqs` and a keyword `max_num_seqs` are one name;
`_` and `-` are equal. A section of a file accepts its fields and its options' flat names.
This module does not know how values are checked or which of two settings wins.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from gllm.config.errors import nearest
from gllm.config.pending import PENDING, Pending
from gllm.config.schema import options


@dataclass(frozen=True)
class Name:
    """One spelling of the option `key`.

    switch: the values that it sets when said and when negated; None for a name that takes a value.
    in_tokens: the value counts tokens where the key counts pages.
    pending: the option is not supported yet.
    """

    key: str
    switch: tuple[object, object] | None = None
    in_tokens: bool = False
    pending: Pending | None = None


def dashed(written: str) -> str:
    return written.strip().replace("_", "-")


def _flat_names() -> Iterator[tuple[str, Name]]:
    for key, (option, _) in options().items():
        yield from ((flag, Name(key)) for flag in option.flags)
        yield from ((flag, Name(key, switch=values)) for flag, values in option.switches.items())
        if option.flag_in_tokens:
            yield option.flag_in_tokens, Name(key, in_tokens=True)
    for pending in PENDING:
        yield from ((flag, Name(pending.key, pending=pending)) for flag in pending.flags)
        yield from (
            (flag, Name(pending.key, switch=values, pending=pending))
            for flag, values in pending.switches.items()
        )


def _with_negations(names: Iterator[tuple[str, Name]]) -> Iterator[tuple[str, Name]]:
    for flag, name in names:
        yield flag, name
        if name.switch and not flag.startswith("--disable-"):
            said, negated = name.switch
            yield f"--no-{flag[2:]}", Name(name.key, (negated, said), pending=name.pending)


FLAT: dict[str, Name] = {flag[2:]: name for flag, name in _with_negations(_flat_names())}

_NESTED: dict[str, Name] = {dashed(pending.key): Name(pending.key, pending=pending) for pending in PENDING}
_NESTED |= {dashed(key): Name(key) for key in options()}


def find(section: str | None, written: str) -> Name | None:
    """What a name means at the top level of a file, as a flag or keyword (None), or in a section."""
    name = FLAT.get(dashed(written))
    if section is None:
        return name
    if nested := _NESTED.get(f"{section}.{dashed(written)}"):
        return nested
    return name if name and name.key.startswith(section + ".") else None


def suggestion(section: str | None, written: str) -> str:
    """A hint for a name that does not exist in a section, or as a flag, keyword or flat key (None)."""
    name = dashed(written)
    if section is None:
        return nearest(name, FLAT)
    field = name.replace("-", "_")
    if elsewhere := [key for key in options() if key.endswith(f".{field}")]:
        return f"did you mean {elsewhere[0]}?"
    fields = [key.partition(".")[2] for key in options() if key.startswith(f"{section}.")]
    flat = [other for other, known in FLAT.items() if known.key.startswith(f"{section}.")]
    everything = f"the keys of {section} are {', '.join(fields)}" if fields else f"{section} has no keys yet"
    return nearest(field, fields) or nearest(name, flat) or everything
