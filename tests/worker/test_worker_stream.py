"""The order of the launch path, on a stand-in whose streams lag behind and overtake one another at random."""

from collections import deque
from functools import partial

import pytest
import torch
from late_device import LateDevice
from torch import Tensor

from gllm.worker.stream import Homecoming, Launcher, LaunchError

ROWS = 3


def launcher_on(device: LateDevice) -> Launcher:
    return Launcher(device, input_bytes=16, output_bytes=8)


def compute(inputs: Tensor, outputs: Tensor) -> None:
    """A model that repeats its inputs."""
    outputs.copy_(inputs[: len(outputs)])


def fill(step: int, inputs: Tensor) -> None:
    inputs.copy_((torch.arange(len(inputs)) + step) % 50)


def launch(launcher: Launcher, step: int, size: int = ROWS) -> Homecoming:
    """A step whose outputs tell which step's inputs it really read."""
    return launcher.launch(size, partial(fill, step), compute, size)


def expected(step: int, size: int = ROWS) -> list[int]:
    return [(step + index) % 50 for index in range(size)]


def wrong_steps(device: LateDevice, count: int = 40, largest: int = ROWS) -> int:
    """Of `count` steps, two under way, those that came home with another step's outputs."""
    launcher = launcher_on(device)
    open_steps: deque[tuple[int, int, Homecoming]] = deque()
    wrong = 0
    for step in range(count):
        device.work(device.source.randrange(6))
        size = device.source.randint(ROWS, largest)
        open_steps.append((step, size, launch(launcher, step, size)))
        if not device.ignores_host_waits:
            launcher.check()
        if len(open_steps) == 2:
            number, size, home = open_steps.popleft()
            wrong += home.take().tolist() != expected(number, size)
    return wrong


@pytest.mark.parametrize("seed", range(30))
def test_every_step_gets_its_own_outputs_home_however_the_device_lags(seed: int) -> None:
    assert wrong_steps(LateDevice(seed)) == 0


@pytest.mark.parametrize("seed", range(20))
def test_steps_that_need_more_room_than_there_is_get_it(seed: int) -> None:
    assert wrong_steps(LateDevice(seed), largest=100) == 0


@pytest.mark.parametrize("broken", ["ignores_host_waits", "ignores_stream_waits"])
def test_the_stand_in_notices_a_wait_that_is_missing(broken: str) -> None:
    assert sum(wrong_steps(LateDevice(seed, **{broken: True})) for seed in range(30)) > 0


def test_a_launch_returns_before_anything_has_run() -> None:
    device = LateDevice(0)
    launcher = launcher_on(device)
    launch(launcher, 0)
    launch(launcher, 1)
    assert device.log == []


def test_the_plan_buffer_is_rewritten_only_behind_its_upload() -> None:
    device = LateDevice(0)
    launcher = launcher_on(device)
    filled_after = []

    def note(_: Tensor) -> None:
        filled_after.append(device.log.count("forward: copy"))

    homes: list[Homecoming] = []
    for step in range(6):
        if step >= 2:
            homes[step - 2].take()
        homes.append(launcher.launch(ROWS, note, compute, ROWS))
    assert all(uploads >= step - 1 for step, uploads in enumerate(filled_after))


def test_no_outputs_are_handed_out_before_their_copy() -> None:
    device = LateDevice(1)
    home = launch(launcher_on(device), 7)
    assert home.take().tolist() == [7, 8, 9]
    forward = ["forward: copy", "forward: run", "forward: record"]
    assert device.log == ["host waits", *forward, "copy: copy", "copy: record"]


def test_a_third_step_is_refused_while_outputs_wait_to_be_taken() -> None:
    launcher = launcher_on(LateDevice(0))
    first = launch(launcher, 0)
    launch(launcher, 1)
    with pytest.raises(LaunchError, match="nobody has taken"):
        launch(launcher, 2)
    first.take()
    with pytest.raises(LaunchError, match="taken before"):
        first.take()
    launch(launcher, 2)


def test_graphs_find_the_inputs_at_one_address_until_a_step_needs_more_room() -> None:
    launcher = launcher_on(LateDevice(0))
    addresses = []
    for size in (3, 8, 16, 5, 17, 3):
        launcher.launch(
            size, partial(fill, 0), lambda inputs, _: addresses.append(inputs.data_ptr()), 1
        ).take()
    assert len(set(addresses[:4])) == 1
    assert len(set(addresses[4:])) == 1
    assert addresses[4] != addresses[0]
