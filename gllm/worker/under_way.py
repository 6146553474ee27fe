"""Steps that were launched and not yet answered, oldest first, and a socket that says when one is home.

A thread sleeps until the device has brought a step home and wakes the poller of the main loop, which
alone takes and sends: no step is touched by two threads. Knows nothing of plans, sockets of the
protocol, or devices.
"""

import contextlib
import queue
import socket
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gllm.protocol.messages import StepPlan

if TYPE_CHECKING:  # it imports torch, which must see the environment that the worker's main makes
    from gllm.worker.output import StepOutput


@dataclass(frozen=True, slots=True)
class Launched:
    """A step under way."""

    plan: StepPlan
    output: "StepOutput"
    start_ns: int  # CLOCK_MONOTONIC, when its plan was taken up
    idle_ns: int  # how long the worker had waited for the plan


class UnderWay:
    """At most `most` steps. `woken` is readable when one may have come home."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._steps: deque[Launched] = deque()
        self._watched: queue.SimpleQueue[StepOutput] = queue.SimpleQueue()
        self.woken, self._wakes = socket.socketpair()
        self.woken.setblocking(False)
        threading.Thread(target=self._watch, name="steps under way", daemon=True).start()

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def has_room(self) -> bool:
        return len(self._steps) < self._most

    def add(self, step: Launched) -> None:
        self._steps.append(step)
        if not step.output.is_ready:
            self._watched.put(step.output)

    def oldest_home(self) -> Launched | None:
        """The oldest step, if it is home; steps come home in order."""
        if self._steps and self._steps[0].output.is_ready:
            return self._steps.popleft()
        return None

    def hush(self) -> None:
        """Forget that `woken` was woken; call before looking for steps, or one may be missed."""
        with contextlib.suppress(BlockingIOError):
            while self.woken.recv(64):
                pass

    def _watch(self) -> None:
        while True:
            output = self._watched.get()
            with contextlib.suppress(Exception):  # the main loop gets it, too, where it can be told
                output.wait()
            self._wakes.send(b"\0")
