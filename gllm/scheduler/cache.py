"""Pages of sequences: what a sequence can share, takes, grows by and gives back.

Prompt pages may be found by others from the moment a plan computes them, generated pages when a
result has confirmed them. The first is safe because the worker runs plans in order and every layer
writes all keys and values of a step before any row attends; a worker that is lost takes the whole
cache with it.
"""

from dataclasses import dataclass

from gllm.scheduler.pages import PagePool
from gllm.scheduler.prefix import PrefixKeys, root_key
from gllm.scheduler.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Fit:
    """How a sequence would be placed now."""

    shared: list[int]  # pages that hold its leading tokens already
    num_new_pages: int
    num_taken_pages: int  # how many fewer there would be to give: new ones, and shared ones nobody holds


class KvCache:
    """The pages of one worker. Those of a prompt longer than `length_bound` depend on its length."""

    def __init__(self, num_pages: int, page_size: int, share_prefixes: bool, length_bound: int) -> None:
        self.pool = PagePool(num_pages)
        self.page_size = page_size
        self.share_prefixes = share_prefixes
        self.length_bound = length_bound

    def emptied(self) -> "KvCache":
        """The same cache with nothing in it, for the worker's successor."""
        return KvCache(self.pool.num_pages, self.page_size, self.share_prefixes, self.length_bound)

    def num_pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def prefix_keys(self, cache_salt: str, num_prompt_tokens: int) -> PrefixKeys:
        """Keys for the pages of a sequence with this salt and so long a prompt.

        Beyond the bound, a token at position p behind a prompt of n tokens is computed for the length
        max(n, p + 1). So prompts up to the bound agree in every token, those generated beyond it
        included; a longer one agrees with those of its own length, and with no other in any token.
        """
        bound = num_prompt_tokens > self.length_bound
        return PrefixKeys(root_key(cache_salt, num_prompt_tokens if bound else 0))

    def fit(self, sequence: Sequence) -> Fit:
        """Where the tokens of a waiting sequence would go."""
        shared = self._shared_pages(sequence)
        num_new = self.num_pages_for(len(sequence.tokens)) - len(shared)
        return Fit(shared, num_new, num_new + self.pool.num_cached_of(shared))

    def enter(self, sequence: Sequence, fit: Fit) -> None:
        """Place it there; its shared tokens count as computed."""
        for page in fit.shared:
            self.pool.hold(page)
        sequence.pages = fit.shared + self.pool.take(fit.num_new_pages)
        sequence.num_named_pages = len(fit.shared)
        sequence.num_planned_tokens = sequence.num_committed_tokens = len(fit.shared) * self.page_size

    def grow(self, sequence: Sequence) -> int:
        """One more page for it, which the caller knows to be there; its number."""
        (page,) = self.pool.take(1)
        sequence.pages.append(page)
        return page

    def leave(self, sequence: Sequence) -> None:
        """Give back all its pages, so that the end of a prefix is forgotten before its beginning."""
        self.pool.give_back(reversed(sequence.pages))

    def name_pages(self, sequence: Sequence, num_tokens: int) -> None:
        """Let others find the full pages among the first `num_tokens` tokens."""
        if not self.share_prefixes:
            return
        start, end = sequence.num_named_pages, num_tokens // self.page_size
        if start < end:
            keys = sequence.prefix_keys.of(sequence.tokens, end, self.page_size)
            for page, key in zip(sequence.pages[start:end], keys[start:end], strict=True):
                self.pool.name(page, key)
            sequence.num_named_pages = end

    def _shared_pages(self, sequence: Sequence) -> list[int]:
        """The longest run of its leading full pages that are there, its last token always left out."""
        # Whose prompt's log-probabilities are asked for, has all of it computed.
        if not self.share_prefixes or sequence.sampling.num_prompt_logprobs:
            return []
        most = (len(sequence.tokens) - 1) // self.page_size
        shared: list[int] = []
        # Keys are made some at a time: behind the first page that is not there nobody asks for them yet.
        while len(shared) < most:
            end = min(max(2 * len(shared), 16), most)
            keys = sequence.prefix_keys.of(sequence.tokens, end, self.page_size)
            shared += self.pool.find_run(keys[len(shared) : end])
            if len(shared) < end:
                break
        return shared
