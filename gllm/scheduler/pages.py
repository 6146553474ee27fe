"""Who holds which page of the KV cache, and which pages can be found again by their contents.

A page is in one of three states: held by sequences (a count), cached (held by nobody, but its
contents may be asked for), or free. Cached pages are given away, least recently used first, when
no free one is left. A content's key says all about it and what stands before it (`prefix`); this
file knows nothing else of what a page contains.
"""

from collections import OrderedDict
from collections.abc import Iterable

Key = bytes


class PagePool:
    """The pages 0 .. num_pages - 1 of one worker."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._holders = [0] * num_pages
        # A stack: the page freed last is given first, so that a small load stays in few pages.
        self._free = list(range(num_pages - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # oldest first
        self._key_of: dict[int, Key] = {}
        self._page_of: dict[Key, int] = {}

    @property
    def num_free_pages(self) -> int:
        """Pages that `take` can give: the free and the cached ones."""
        return len(self._free) + len(self._cached)

    @property
    def num_cached_pages(self) -> int:
        return len(self._cached)

    def take(self, count: int) -> list[int]:
        """`count` pages, each held once; the caller has made sure that so many can be given."""
        if count > self.num_free_pages:
            raise ValueError(f"{count} pages asked for, {self.num_free_pages} of {self.num_pages} are free")
        taken = [self._free.pop() if self._free else self._forget_oldest() for _ in range(count)]
        for page in taken:
            self._holders[page] = 1
        return taken

    def give_back(self, pages: Iterable[int]) -> None:
        """End one hold on each of `pages`."""
        for page in pages:
            if self._holders[page] <= 0:
                raise ValueError(f"page {page} is given back, but nobody holds it")
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            if page in self._key_of:
                self._cached[page] = None
            else:
                self._free.append(page)

    def find_run(self, keys: Iterable[Key]) -> list[int]:
        """The pages with these contents, held or cached, up to the first that is not there."""
        found = []
        find = self._page_of.get
        for key in keys:
            page = find(key)
            if page is None:
                break
            found.append(page)
        return found

    def num_cached_of(self, pages: Iterable[int]) -> int:
        """How many of the pages nobody holds, so that holding them makes so many fewer to give."""
        return sum(map(self._cached.__contains__, pages))

    def hold(self, page: int) -> None:
        """One more hold on a page that `find_run` returned."""
        self._cached.pop(page, None)
        self._holders[page] += 1

    def name(self, page: int, key: Key) -> None:
        """Let the held `page` be found by `key`, unless another page has that content already."""
        if key not in self._page_of:
            self._page_of[key] = page
            self._key_of[page] = key

    def forget_all(self) -> int:
        """Let no page be found any more, whoever holds it; how many could be."""
        num_named = len(self._key_of)
        self._free += self._cached
        self._cached.clear()
        self._key_of.clear()
        self._page_of.clear()
        return num_named

    def _forget_oldest(self) -> int:
        page, _ = self._cached.popitem(last=False)
        del self._page_of[self._key_of.pop(page)]
        return page

    def check(self, held: Iterable[int]) -> None:
        """Raise unless the pages `held` (with repetitions) are held and every other is cached or free."""
        expected = [0] * self.num_pages
        for page in held:
            expected[page] += 1
        if expected != self._holders:
            wrong = [page for page in range(self.num_pages) if expected[page] != self._holders[page]]
            raise AssertionError(f"holders of the pages {wrong[:10]} are miscounted")
        idle = sorted([*self._free, *self._cached])
        if idle != [page for page in range(self.num_pages) if not expected[page]]:
            raise AssertionError("free and cached pages are not those that nobody holds")
        if any(page in self._key_of for page in self._free):
            raise AssertionError("a free page can be found by a key")
        if {key: page for page, key in self._key_of.items()} != self._page_of:
            raise AssertionError("keys and pages do not name each other")
