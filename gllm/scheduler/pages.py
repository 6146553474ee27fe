"""Who holds which page of the KV cache.

A page has a number and a count of holders; it is free when nobody holds it. Knows nothing of what
a page contains.
"""

from collections.abc import Iterable


class PagePool:
    """The pages 0 .. num_pages - 1 of one worker."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._holders = [0] * num_pages
        # A stack: the page freed last is given first, so that a small load stays in few pages.
        self._free = list(range(num_pages - 1, -1, -1))

    @property
    def num_free_pages(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """`count` free pages, each held once; the caller has made sure that so many are free."""
        if count > len(self._free):
            raise ValueError(f"{count} pages asked for, {len(self._free)} of {self.num_pages} are free")
        taken = [self._free.pop() for _ in range(count)]
        for page in taken:
            self._holders[page] = 1
        return taken

    def give_back(self, pages: Iterable[int]) -> None:
        """End one hold on each of `pages`."""
        for page in pages:
            if self._holders[page] <= 0:
                raise ValueError(f"page {page} is given back, but nobody holds it")
            self._holders[page] -= 1
            if not self._holders[page]:
                self._free.append(page)

    def check(self, held: Iterable[int]) -> None:
        """Raise unless exactly the pages `held` (with repetitions) are held and all others are free."""
        expected = [0] * self.num_pages
        for page in held:
            expected[page] += 1
        if expected != self._holders:
            wrong = [page for page in range(self.num_pages) if expected[page] != self._holders[page]]
            raise AssertionError(f"holders of the pages {wrong[:10]} are miscounted")
        free = sorted(self._free)
        if free != [page for page in range(self.num_pages) if not expected[page]]:
            raise AssertionError("the free pages are not those that nobody holds")
