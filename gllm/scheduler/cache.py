"""Pages of sequences: what a sequence can share, takes, grows by and gives back.

Prompt pages may be found by others from the moment a plan computes them, generated pages when a
result has confirmed them. The first is safe because the worker runs plans in order and every layer
writes all keys and values of a step before any row attends; a worker that is lost takes the whole
cache with it.
"""

from dataclasses import dataclass

from gllm.scheduler.pages import PagePool
from gllm.scheduler.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Fit:
    """How a sequence would be placed now."""

    shared: list[int]  # pages that hold its leading tokens already
    num_new_pages: int
    num_taken_pages: int  # how many fewer there would be to give: new ones, and shared ones nobody holds


class KvCache:
    """The pages of one worker."""

    def __init__(self, num_pages: int, page_size: int, share_prefixes: bool) -> None:
        self.pool = PagePool(num_pages)
        self.page_size = page_size
        self.share_prefixes = share_prefixes

    def num_pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def fit(self, sequence: Sequence) -> Fit:
        """Where the tokens of a waiting sequence would go."""
        shared = self._shared_pages(sequence)
        num_new = self.num_pages_for(len(sequence.tokens)) - len(shared)
        return Fit(shared, num_new, num_new + sum(map(self.pool.is_cached, shared)))

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
        for number in range(sequence.num_named_pages, num_tokens // self.page_size):
            key = sequence.prefix_keys.of(sequence.tokens, number, self.page_size)
            self.pool.name(sequence.pages[number], key)
            sequence.num_named_pages = number + 1

    def _shared_pages(self, sequence: Sequence) -> list[int]:
        """The longest run of its leading full pages that are there, its last token always left out."""
        shared: list[int] = []
        if self.share_prefixes:
            for number in range((len(sequence.tokens) - 1) // self.page_size):
                page = self.pool.find(sequence.prefix_keys.of(sequence.tokens, number, self.page_size))
                if page is None:
                    break
                shared.append(page)
        return shared
