"""Which requests must have begun by when."""

from heapq import heappop, heappush

RequestKey = tuple[bytes, int]  # frontend, request_id


class Deadlines:
    """Requests by deadline, seconds on the caller's clock; one that began or ended stays until then."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, RequestKey]] = []

    def add(self, deadline: float, request: RequestKey) -> None:
        heappush(self._heap, (deadline, request))

    def passed(self, now: float) -> list[RequestKey]:
        """Those whose deadline is over, each reported once."""
        over = []
        while self._heap and self._heap[0][0] <= now:
            over.append(heappop(self._heap)[1])
        return over
