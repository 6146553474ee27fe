"""API keys: their names, their limits, and only the hashes of the keys themselves.

A key may be written by itself, several as `name=key,name=key`, or in a file as a mapping with limits:

    api_keys:
      search: sk-one
      batch: {key: sk-two, requests_per_minute: 60, tokens_per_minute: 100k, max_concurrency: 4}

In place of `key`, `digest` gives the SHA-256 of one in hexadecimal. Knows how keys are written; nothing of
requests.
"""

import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from gllm.config.kinds import whole_number

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
KEY = re.compile(r"[\x21-\x7e]{1,512}")  # what a header can carry
DIGEST = re.compile(r"[0-9a-f]{64}")
LIMITS = ("requests_per_minute", "tokens_per_minute", "max_concurrency")
MAX_KEYS = 1000
EXPECTED = "a key, name=key pairs with commas between them, or a mapping of names to keys"


class ApiKey(BaseModel):
    """One key. digest: hex of the SHA-256 of the key; who has the configuration does not have the keys.

    The limits are None where those of the section `limits` hold.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str
    digest: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None


def digest(key: str) -> str:
    """What stands for a key."""
    return sha256(key.encode()).hexdigest()


def _keys(written: object) -> object:
    if written is None:
        return ()
    if isinstance(written, list | tuple):
        return tuple(written)  # already checked, on its way to a process
    if isinstance(written, str):
        pairs: Mapping[str, object] = _pairs(written)
    elif isinstance(written, Mapping):
        pairs = written
    else:
        raise ValueError(EXPECTED)
    if not pairs or len(pairs) > MAX_KEYS:
        raise ValueError(EXPECTED)
    keys = tuple(_key(str(name), value) for name, value in pairs.items())
    if len({key.digest for key in keys}) != len(keys):
        raise ValueError("keys that differ: two names have the same one")
    return keys


def _pairs(written: str) -> Mapping[str, object]:
    pairs: dict[str, object] = {}
    for number, part in enumerate(written.split(",")):
        name, equals, key = part.strip().partition("=")
        # A key of base64 may end with equals signs and be no pair.
        if not equals or not key.strip("=") or not NAME.fullmatch(name):
            name, key = f"key{number + 1}" if number else "default", part.strip()
        if name in pairs:
            raise ValueError("names that differ: two keys have the same one")
        pairs[name] = key
    return pairs


def _key(name: str, written: object) -> ApiKey:
    """Never repeats the key in an error: it is a secret."""
    if not NAME.fullmatch(name):
        raise ValueError("names of letters, digits, dots, dashes and underscores, at most 64 of them")
    given = dict(written) if isinstance(written, Mapping) else {"key": written}
    if DIGEST.fullmatch(str(given.get("digest"))) and "key" not in given:
        return ApiKey(name=name, digest=str(given.pop("digest")), **dict(_limits(name, given)))
    key = given.pop("key", None)
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise ValueError(f"for {name} a key of 1 to 512 printable characters without spaces (quote numbers)")
    return ApiKey(name=name, digest=digest(key), **dict(_limits(name, given)))


def _limits(name: str, given: Mapping[object, object]) -> Iterator[tuple[str, int]]:
    for limit, value in given.items():
        field = str(limit).replace("-", "_")
        if field not in LIMITS:
            raise ValueError(f"for {name} only key, digest, {', '.join(LIMITS)}")
        try:
            number = whole_number(value)
        except ValueError:
            number = 0
        if number < 1:
            raise ValueError(f"for {name} a {field} of at least 1")
        yield field, number


Keys = Annotated[tuple[ApiKey, ...], BeforeValidator(_keys)]
