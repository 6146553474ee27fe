"""Which requests must begin by when."""

from heapq import heappop, heappush

RequestKey = tuple[bytes, int]  # frontend, request_id


class Deadlines:
    """Requests that have not begun, by deadline in seconds on the caller's clock."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, RequestKey]] = []
        self._deadline_of: dict[RequestKey, float] = {}

    def add(self, request: RequestKey, deadline: float) -> None:
        self._deadline_of[request] = deadline
        heappush(self._heap, (deadline, request))

    def drop(self, request: RequestKey) -> None:
        """The request has begun or ended: no deadline concerns it any more."""
        self._deadline_of.pop(request, None)

    def passed(self, now: float) -> list[RequestKey]:
        """Those whose deadline is over, each reported once."""
        over = []
        while self._heap and self._heap[0][0] <= now:
            deadline, request = heappop(self._heap)
            if self._deadline_of.get(request) == deadline:
                del self._deadline_of[request]
                over.append(request)
        return over
