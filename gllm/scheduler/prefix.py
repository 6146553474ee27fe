"""Keys of page contents: equal keys mean equal tokens from the first one on.

The key of a full page is a hash of the key before it and of its own tokens; before the first page
stands a hash of the request's `cache_salt`. So a page is shared only between sequences that agree
in everything up to its end, salt included. Where keys and values depend on the prompt's length, too
(`WorkerReady.length_bound`), it stands before the first page as well. The hash is cryptographic
(BLAKE2b, 128 bits): nobody can make two prompts collide on purpose, which a cheap hash allows
(CVE-2025-25183). It has no secret, so a recording can be replayed; who must not learn by timing what
others asked sends a salt.
"""

from array import array
from hashlib import blake2b

from gllm.scheduler.pages import Key

KEY_BYTES = 16


def root_key(cache_salt: str, prompt_len: int = 0) -> Key:
    """What stands before the first page of a request with this salt, for prompts of this length alone
    unless it is 0."""
    length = prompt_len.to_bytes(8, "little")
    return blake2b(cache_salt.encode(), digest_size=KEY_BYTES, person=b"gllm.prefix", salt=length).digest()


def next_keys(before: Key, tokens: "array[int]", page_size: int) -> list[Key]:
    """The keys of the full pages that `tokens` fill behind the page (or root) with key `before`."""
    raw, size = tokens.tobytes(), page_size * tokens.itemsize
    keys = []
    for start in range(0, len(raw), size):
        before = blake2b(before + raw[start : start + size], digest_size=KEY_BYTES).digest()
        keys.append(before)
    return keys


class PrefixKeys:
    """The keys of one sequence's pages, as far as somebody has asked for them."""

    __slots__ = ("_keys", "_root")

    def __init__(self, root: Key) -> None:
        self._root = root
        self._keys: list[Key] = []

    def of(self, tokens: "array[int]", num_pages: int, page_size: int) -> list[Key]:
        """The keys of (at least) the first `num_pages` pages of the sequence, which `tokens` fill.

        Amortised constant a page: a sequence's tokens only grow, so keys once made stay true.
        """
        keys = self._keys
        if len(keys) < num_pages:
            missing = tokens[len(keys) * page_size : num_pages * page_size]
            keys += next_keys(keys[-1] if keys else self._root, missing, page_size)
        return keys
