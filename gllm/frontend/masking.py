"""What the newest tokens of constrained outputs allow next: the masks of one commit, computed together.

Most masks take less time than waking a thread for them does. So those that are expected to be cheap are
computed on the spot, until a commit has had INLINE_S of the event loop's time; all others in threads,
beside everything else that the loop does, the cheapest first.

Knows what computes a mask by its protocol alone (`Constraint`); nothing of grammars or of sockets.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from gllm.frontend.open_request import OpenRequest

NUM_THREADS = 2
INLINE_S = 5e-4  # of a commit's masks; more would show as a delay of the tokens beside them
HAND_OVER_S = 1e-3  # no mask that is ready waits longer than this and one other mask for those behind it


@dataclass(slots=True)
class Due:
    """The mask of the next token of a constrained output. answer: that mask, or why there is none."""

    request_id: int
    output: int
    request: OpenRequest
    answer: bytes | Exception = b""

    @property
    def num_generated(self) -> int:
        return len(self.request.outputs[self.output].tokens)

    @property
    def mask_s(self) -> float:
        assert self.request.constraint is not None
        return self.request.constraint.mask_s

    def compute(self) -> None:
        assert self.request.constraint is not None
        newest = self.request.outputs[self.output].tokens[-1]
        try:
            self.answer = self.request.constraint.mask_after(self.output, newest)
        except Exception as error:
            self.answer = error


class Masking:
    """Computes masks for one event loop. take: called in the loop with some that have their answers."""

    def __init__(self, take: Callable[[list[Due]], None]) -> None:
        self._take = take
        self._threads = ThreadPoolExecutor(NUM_THREADS, "gllm-mask")

    def compute(self, masks: list[Due]) -> None:
        """The masks of one commit; `take` gets them now or later, each once."""
        masks.sort(key=lambda due: due.mask_s)
        left = INLINE_S
        for number, due in enumerate(masks):
            left -= due.mask_s
            if left < 0:
                self._hand_to_threads(masks[number:])
                masks = masks[:number]
                break
            due.compute()
        if masks:
            self._take(masks)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _hand_to_threads(self, masks: Iterable[Due]) -> None:
        waiting = deque(masks)
        loop = asyncio.get_running_loop()
        for _ in range(min(NUM_THREADS, len(waiting))):
            self._threads.submit(self._compute_waiting, waiting, loop)

    def _compute_waiting(self, waiting: deque[Due], loop: asyncio.AbstractEventLoop) -> None:
        """In a thread, beside others that take from `waiting`."""
        ready: list[Due] = []
        began = time.monotonic()
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            while waiting:
                try:
                    due = waiting.popleft()
                except IndexError:  # another thread has taken it
                    break
                due.compute()
                ready.append(due)
                if time.monotonic() - began > HAND_OVER_S:
                    loop.call_soon_threadsafe(self._take, ready)
                    ready, began = [], time.monotonic()
            if ready:
                loop.call_soon_threadsafe(self._take, ready)
