"""Steps under way: answered in order, when they are home, and without anybody asking in vain."""

import select
import threading

import torch

from gllm.protocol.messages import StepPlan
from gllm.protocol.wire import column
from gllm.worker.output import Done, Sampled
from gllm.worker.under_way import Launched, UnderWay


class Late:
    """A step that comes home when the test says so."""

    def __init__(self, *, fails: bool = False) -> None:
        self.home = threading.Event()
        self.fails = fails

    @property
    def is_ready(self) -> bool:
        return self.home.is_set()

    def wait(self) -> None:
        assert self.home.wait(60)
        if self.fails:
            raise RuntimeError("the device is gone")

    def take(self) -> Sampled:
        self.wait()
        return Sampled(torch.tensor([1]))


def launched(step: int, output: Late | Done) -> Launched:
    none = column()
    return Launched(StepPlan(0, step, none, none, none, none, [], none), output, 0, 0)


def is_woken(under_way: UnderWay, timeout_s: float) -> bool:
    return bool(select.select([under_way.woken], [], [], timeout_s)[0])


def test_the_main_loop_is_woken_when_the_oldest_step_is_home_and_not_before() -> None:
    under_way = UnderWay(2)
    outputs = [Late(), Late()]
    for number, output in enumerate(outputs):
        assert under_way.has_room
        under_way.add(launched(number, output))
    assert not under_way.has_room
    assert not is_woken(under_way, 0.05)
    outputs[1].home.set()  # steps of a device end in order; one that did not would wait for the first
    assert under_way.oldest_home() is None
    outputs[0].home.set()
    assert is_woken(under_way, 60)
    under_way.hush()
    taken = [under_way.oldest_home().plan.step, under_way.oldest_home().plan.step]
    assert taken == [0, 1]
    assert under_way.oldest_home() is None
    assert len(under_way) == 0


def test_a_step_that_had_run_wakes_nobody() -> None:
    under_way = UnderWay(1)
    under_way.add(launched(5, Done(Sampled(torch.tensor([3])))))
    assert under_way.oldest_home().plan.step == 5
    assert not is_woken(under_way, 0.05)


def test_a_step_that_fails_wakes_the_main_loop_which_then_gets_the_error() -> None:
    under_way = UnderWay(2)
    failing, next_one = Late(fails=True), Late()
    under_way.add(launched(0, failing))
    under_way.add(launched(1, next_one))
    failing.home.set()
    assert is_woken(under_way, 60)
    under_way.hush()
    assert under_way.oldest_home().output is failing
    next_one.home.set()
    assert is_woken(under_way, 60)
