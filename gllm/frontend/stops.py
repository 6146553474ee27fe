"""Stop strings in a stream of text: found across any borders, never shown, not even in part.

The match that ends first wins (of several that end there, the longest), so the result does not
depend on how the text was cut into pieces. One Aho-Corasick automaton: linear in text and stops.
"""

from collections import deque
from collections.abc import Sequence
from functools import lru_cache

MAX_CODE_POINT_BITS = 21


class StopStrings:
    """The automaton for some stop strings. A state is the longest end of the text that begins one of them.

    edges: state and character, packed into one integer, to the next state.
    fallback: the state of the next shorter such end. depth: its length. stop: the string that ends here.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.edges: dict[int, int] = {}
        self.fallback = [0]
        self.depth = [0]
        self.stop: list[str | None] = [None]
        for text in stops:
            self._add(text)
        self._join()

    def _add(self, text: str) -> None:
        state = 0
        for character in text:
            key = state << MAX_CODE_POINT_BITS | ord(character)
            if key not in self.edges:
                self.edges[key] = len(self.depth)
                self.depth.append(self.depth[state] + 1)
                self.fallback.append(0)
                self.stop.append(None)
            state = self.edges[key]
        self.stop[state] = text

    def _join(self) -> None:
        """Give each state its fallback, shortest states first."""
        children: list[list[tuple[int, int]]] = [[] for _ in self.depth]
        for key, child in self.edges.items():
            children[key >> MAX_CODE_POINT_BITS].append((key & (1 << MAX_CODE_POINT_BITS) - 1, child))
        queue = deque([0])
        while queue:
            state = queue.popleft()
            for code, child in children[state]:
                if state:
                    self.fallback[child] = self.next(self.fallback[state], code)
                if self.stop[child] is None:
                    self.stop[child] = self.stop[self.fallback[child]]
                queue.append(child)

    def next(self, state: int, code: int) -> int:
        """The state after one more character."""
        edges = self.edges
        while (found := edges.get(state << MAX_CODE_POINT_BITS | code)) is None:
            if not state:
                return 0
            state = self.fallback[state]
        return found


@lru_cache(maxsize=32)
def _automaton(stops: tuple[str, ...]) -> StopStrings:
    """Shared, since the prompts of a batch have the same stops."""
    return StopStrings(stops)


class StopMatcher:
    """Watches one stream of text for `stops`, which are not empty."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = _automaton(tuple(stops))
        self._state = 0
        self._held = ""  # the end of the text that may become a stop string

    def feed(self, text: str) -> tuple[str, str | None]:
        """The text that may be shown now, and the stop string that ended it, if one did."""
        stops, state = self._stops, self._state
        for position, character in enumerate(text, 1):
            state = stops.next(state, ord(character))
            stop = stops.stop[state]
            if stop is not None:
                seen = self._held + text[:position]
                self._held = ""
                return seen[: len(seen) - len(stop)], stop
        self._state = state
        seen = self._held + text
        shown = len(seen) - stops.depth[state]
        self._held = seen[shown:]
        return seen[:shown], None

    def finish(self) -> str:
        """What was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return held
