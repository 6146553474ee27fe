"""The order of the launch path, on a stand-in whose streams lag behind and overtake one another at random."""

import random
from collections import deque
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from gllm.worker.stream import ForwardOutput, Launcher, LaunchError

ROWS = 3
Operation = tuple[str, Callable[[], None]]


def overwrite(target: Tensor, source: Tensor) -> None:
    target.copy_(source)


def compute(inputs: Tensor, tokens: Tensor) -> None:
    """A model that repeats its inputs."""
    tokens.copy_(inputs[:ROWS])


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
            assert self.device.work(1), "the host waits for what nothing will do"


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

    The last two options break a promise of the interface, to see whether these tests would notice.
    """

    def __init__(
        self, seed: int, *, ignores_host_waits: bool = False, ignores_stream_waits: bool = False
    ) -> None:
        self.source = random.Random(seed)
        self.ignores_host_waits, self.ignores_stream_waits = ignores_host_waits, ignores_stream_waits
        self.streams: list[LateStream] = []
        self.log: list[str] = []

    def pinned(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.full((size,), 99, dtype=dtype)

    empty = pinned

    def stream(self, name: str) -> LateStream:
        self.streams.append(LateStream(self, name))
        return self.streams[-1]

    def work(self, count: int) -> bool:
        """Up to `count` operations; whether all of them could be done."""
        for _ in range(count):
            order = self.source.sample(self.streams, len(self.streams))
            if not any(stream.advance() for stream in order):
                return False
        return True


def launch(launcher: Launcher, step: int) -> ForwardOutput:
    """A step whose tokens tell which step's inputs it really read."""

    def fill(inputs: Tensor) -> int:
        inputs[:ROWS] = torch.tensor([step % 50, step % 50 + 1, step % 50 + 2], dtype=torch.uint8)
        return ROWS

    return launcher.launch(fill, compute, ROWS)


def wrong_steps(device: LateDevice, count: int = 40) -> int:
    """Of `count` steps, two under way, those that came home with another step's tokens."""
    launcher = Launcher(device, input_bytes=16, max_num_sampling=8)
    open_steps: deque[tuple[int, ForwardOutput]] = deque()
    wrong = 0
    for step in range(count):
        device.work(device.source.randrange(6))
        open_steps.append((step, launch(launcher, step)))
        if not device.ignores_host_waits:
            launcher.check()
        if len(open_steps) == 2:
            number, output = open_steps.popleft()
            wrong += output.take() != [number % 50, number % 50 + 1, number % 50 + 2]
    return wrong


@pytest.mark.parametrize("seed", range(30))
def test_every_step_gets_its_own_tokens_home_however_the_device_lags(seed: int) -> None:
    assert wrong_steps(LateDevice(seed)) == 0


@pytest.mark.parametrize("broken", ["ignores_host_waits", "ignores_stream_waits"])
def test_the_stand_in_notices_a_wait_that_is_missing(broken: str) -> None:
    assert sum(wrong_steps(LateDevice(seed, **{broken: True})) for seed in range(30)) > 0


def test_a_launch_returns_before_anything_has_run() -> None:
    device = LateDevice(0)
    launcher = Launcher(device, input_bytes=16, max_num_sampling=8)
    launch(launcher, 0)
    launch(launcher, 1)
    assert device.log == []


def test_the_plan_buffer_is_rewritten_only_behind_its_upload() -> None:
    device = LateDevice(0)
    launcher = Launcher(device, input_bytes=16, max_num_sampling=8)
    filled_after = []

    def fill(_: Tensor) -> int:
        filled_after.append(device.log.count("forward: copy"))
        return ROWS

    outputs: list[ForwardOutput] = []
    for step in range(6):
        if step >= 2:
            outputs[step - 2].take()
        outputs.append(launcher.launch(fill, compute, ROWS))
    assert all(uploads >= step - 1 for step, uploads in enumerate(filled_after))


def test_no_tokens_are_handed_out_before_their_copy() -> None:
    device = LateDevice(1)
    output = launch(Launcher(device, input_bytes=16, max_num_sampling=8), 7)
    assert output.take() == [7, 8, 9]
    forward = ["forward: copy", "forward: run", "forward: record"]
    assert device.log == ["host waits", *forward, "copy: copy", "copy: record"]


def test_a_third_step_is_refused_while_tokens_wait_to_be_taken() -> None:
    launcher = Launcher(LateDevice(0), input_bytes=16, max_num_sampling=8)
    first = launch(launcher, 0)
    launch(launcher, 1)
    with pytest.raises(LaunchError, match="nobody has taken"):
        launch(launcher, 2)
    first.take()
    with pytest.raises(LaunchError, match="taken before"):
        first.take()
    launch(launcher, 2)


def test_graphs_find_the_inputs_at_one_address() -> None:
    device = LateDevice(0)
    launcher = Launcher(device, input_bytes=16, max_num_sampling=8)
    addresses = set()
    for _ in range(4):
        launcher.launch(lambda _: ROWS, lambda inputs, _tokens: addresses.add(inputs.data_ptr()), ROWS).take()
    assert len(addresses) == 1
