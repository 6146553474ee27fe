"""What the frontends have counted, kept where all of them can ask for it.

A scrape reaches one frontend of several, and must show the sum. Knows nothing of what is counted.
"""

from gllm.meters import added_up
from gllm.protocol.messages import Report, Series


class Reports:
    """The last report of each frontend. A count must not fall when a frontend goes: its last one stays."""

    def __init__(self) -> None:
        self._of: dict[bytes, list[Series]] = {}
        self._of_gone: list[Series] = []

    def take(self, frontend: bytes, report: Report) -> None:
        self._of[frontend] = report.series

    def frontend_lost(self, frontend: bytes) -> None:
        self._of_gone = added_up([*self._of_gone, *self._of.pop(frontend, ())])

    def with_own(self, own: list[Series]) -> list[Series]:
        """`own`, and the sums of what the frontends counted."""
        return added_up([*own, *self._of_gone, *(series for held in self._of.values() for series in held)])
