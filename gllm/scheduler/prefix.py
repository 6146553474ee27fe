"""Keys of page contents: equal keys mean equal tokens from the first one on.

The key of a full page is a hash of the key before it and of its own tokens; before the first page
stands a hash of the request's `cache_salt`. So a page is shared only between sequences that agree
in everything up to its end, salt included. The hash is cryptographic (BLAKE2b, 128 bits): nobody
can make two prompts collide on purpose, which a cheap hash allows (CVE-2025-25183). It has no
secret, so a recording can be replayed; who must not learn by timing what others asked sends a salt.
"""

from array import array
from hashlib import blake2b

from gllm.scheduler.pages import Key

KEY_BYTES = 16


def root_key(cache_salt: str) -> Key:
    """What stands before the first page of a request with this salt."""
    return blake2b(cache_salt.encode(), digest_size=KEY_BYTES, person=b"gllm.prefix").digest()


def next_key(before: Key, tokens: "array[int]") -> Key:
    """The key of a full page with these tokens behind the page (or root) with key `before`."""
    return blake2b(before + tokens.tobytes(), digest_size=KEY_BYTES).digest()


class PrefixKeys:
    """The keys of one sequence's pages, as far as somebody has asked for them."""

    __slots__ = ("_keys", "_root")

    def __init__(self, cache_salt: str) -> None:
        self._root = root_key(cache_salt)
        self._keys: list[Key] = []

    def of(self, tokens: "array[int]", page: int, page_size: int) -> Key:
        """The key of page number `page` of the sequence, which `tokens` fill to its end.

        Amortised constant: a sequence's tokens only grow, so keys once made stay true.
        """
        while len(self._keys) <= page:
            start = len(self._keys) * page_size
            before = self._keys[-1] if self._keys else self._root
            self._keys.append(next_key(before, tokens[start : start + page_size]))
        return self._keys[page]
