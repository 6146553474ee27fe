"""A stand-in for `stream.Device` whose streams lag behind and overtake one another at random."""

import random
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Operation = tuple[str, Callable[[], None]]


def overwrite(target: Tensor, source: Tensor) -> None:
    target.copy_(source)


class LateEvent:
    def __init__(self, device: "LateDevice") -> None:
        self.device = device
        self.has_run = False

    @property
    def is_done(self) -> bool:
        self.device.work(self.device.source.randrange(3))
        return self.has_run

    def wait(self) -> None:
        self.device.log.append("host waits")
        while not self.has_run and not self.device.ignores_host_waits:
            assert self.device.work(1) or self.has_run, "the host waits for what nothing will do"


class LateStream:
    """Work is done when the device gets to it, on the memory as it is then."""

    def __init__(self, device: "LateDevice", name: str) -> None:
        self.device, self.name = device, name
        self.queue: deque[Operation | LateEvent] = deque()  # an event stands for: wait until it has run

    def copy(self, target: Tensor, source: Tensor) -> None:
        self.queue.append(("copy", partial(overwrite, target, source)))

    def run(self, call: Callable[[], None]) -> None:
        self.queue.append(("run", call))

    def record(self) -> LateEvent:
        event = LateEvent(self.device)
        self.queue.append(("record", lambda: setattr(event, "has_run", True)))
        return event

    def wait(self, event: LateEvent) -> None:
        if not self.device.ignores_stream_waits:
            self.queue.append(event)

    def advance(self) -> bool:
        """Do the first thing in the queue, if it may run."""
        if not self.queue:
            return False
        first = self.queue[0]
        if isinstance(first, LateEvent):
            if not first.has_run:
                return False
        else:
            name, call = first
            self.device.log.append(f"{self.name}: {name}")
            call()
        self.queue.popleft()
        return True


class LateDevice:
    """Runs nothing until someone waits or asks; then any stream's next operation that may run.

    The last two options break a promise of the interface, to see whether tests would notice.
    """

    def __init__(
        self, seed: int, *, ignores_host_waits: bool = False, ignores_stream_waits: bool = False
    ) -> None:
        self.source = random.Random(seed)
        self.ignores_host_waits, self.ignores_stream_waits = ignores_host_waits, ignores_stream_waits
        self.streams: list[LateStream] = []
        self.log: list[str] = []
        self.lock = (
            threading.RLock()
        )  # a thread may wait while another asks: a device does one thing at a time

    def pinned(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.full((size,), 99, dtype=dtype)

    empty = pinned

    def stream(self, name: str) -> LateStream:
        self.streams.append(LateStream(self, name))
        return self.streams[-1]

    def synchronize(self) -> None:
        while self.work(1):
            pass

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        """The call itself: it reads the memory as it is when it is replayed, as a graph does."""
        self.log.append("capture")

        def replay() -> None:
            self.log.append("replay")
            call()

        return replay

    def work(self, count: int) -> bool:
        """Up to `count` operations; whether all of them could be done."""
        with self.lock:
            for _ in range(count):
                order = self.source.sample(self.streams, len(self.streams))
                if not any(stream.advance() for stream in order):
                    return False
            return True
