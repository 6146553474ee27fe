"""Where masks are computed: cheap ones on the spot and together, costly ones beside the event loop."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import uvloop
from fake_scheduler import FakeScheduler

from gllm.frontend.engine import EngineClient
from gllm.frontend.masking import HAND_OVER_S, INLINE_S, NUM_THREADS, Due, Masking
from gllm.frontend.open_request import OpenRequest, Output
from gllm.protocol.messages import Sampling
from gllm.protocol.wire import column

GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)
ALL = b"\xff" * 128


class FakeConstraint:
    """Allows everything, after `wait`; notes which thread asked for which token's mask."""

    first_mask = ALL

    def __init__(self, mask_s: float, wait: Callable[[], object] = lambda: None) -> None:
        self.mask_s = mask_s
        self.asked: list[tuple[int, int, threading.Thread]] = []
        self._wait = wait

    def mask_after(self, output: int, token: int) -> bytes:
        self.asked.append((output, token, threading.current_thread()))
        self._wait()
        return ALL

    @property
    def threads(self) -> list[threading.Thread]:
        return [thread for _, _, thread in self.asked]


def due(request_id: int, constraint: FakeConstraint) -> Due:
    return Due(request_id, 0, OpenRequest(column([1]), [Output(column([request_id]))], constraint))


def run(body: Callable[[Masking, "asyncio.Queue[list[int]]"], Awaitable[None]]) -> None:
    """`body` with a Masking, and the request ids of what it hands over, in order."""

    async def all_of_it() -> None:
        taken: asyncio.Queue[list[int]] = asyncio.Queue()
        masking = Masking(lambda some: taken.put_nowait([one.request_id for one in some]))
        try:
            async with asyncio.timeout(20):
                await body(masking, taken)
        finally:
            masking.close()

    uvloop.run(all_of_it())


def test_cheap_masks_are_computed_on_the_spot_and_handed_over_together() -> None:
    cheap = FakeConstraint(INLINE_S / 4)

    async def body(masking: Masking, taken: "asyncio.Queue[list[int]]") -> None:
        masking.compute([due(5, cheap), due(6, cheap), due(7, cheap)])
        assert taken.get_nowait() == [5, 6, 7]
        assert taken.empty()

    run(body)
    assert cheap.asked == [(0, token, threading.current_thread()) for token in (5, 6, 7)]


def test_one_commit_gets_no_more_of_the_loop_than_its_share() -> None:
    cheap = FakeConstraint(INLINE_S / 4.5)

    async def body(masking: Masking, taken: "asyncio.Queue[list[int]]") -> None:
        masking.compute([due(number, cheap) for number in range(100)])
        got = taken.get_nowait()
        assert got == [0, 1, 2, 3]
        while len(got) < 100:
            got += await taken.get()
        assert sorted(got) == list(range(100))

    run(body)
    others = set(cheap.threads) - {threading.current_thread()}
    assert cheap.threads.count(threading.current_thread()) == 4
    assert 1 <= len(others) <= NUM_THREADS


def test_a_costly_mask_holds_up_neither_the_loop_nor_the_cheap_ones_beside_it() -> None:
    goes_on = threading.Event()
    costly = FakeConstraint(1.0, lambda: goes_on.wait(10))
    cheap = FakeConstraint(INLINE_S / 4)

    async def body(masking: Masking, taken: "asyncio.Queue[list[int]]") -> None:
        masking.compute([due(1, costly), due(2, cheap)])
        assert taken.get_nowait() == [2]
        masking.compute([due(3, cheap)])
        assert taken.get_nowait() == [3]
        goes_on.set()
        assert await taken.get() == [1]

    run(body)
    assert costly.threads != [threading.current_thread()]


def test_what_a_thread_has_ready_does_not_wait_for_the_costly_ones_behind_it() -> None:
    goes_on = threading.Event()
    waits = FakeConstraint(2.0, lambda: goes_on.wait(10))
    slow = FakeConstraint(1.0, lambda: time.sleep(2 * HAND_OVER_S))

    async def body(masking: Masking, taken: "asyncio.Queue[list[int]]") -> None:
        masking.compute([*(due(number, waits) for number in range(NUM_THREADS)), due(7, slow), due(8, slow)])
        assert sorted(await taken.get() + await taken.get()) == [7, 8]
        goes_on.set()
        assert sorted(await taken.get() + await taken.get()) == list(range(NUM_THREADS))

    run(body)


def test_masks_that_nobody_waits_for_any_more_trouble_nobody(recwarn: pytest.WarningsRecorder) -> None:
    goes_on = threading.Event()
    waits = FakeConstraint(1.0, lambda: goes_on.wait(10))

    async def body(masking: Masking, taken: "asyncio.Queue[list[int]]") -> None:
        masking.compute([due(1, waits)])
        while not waits.asked:
            await asyncio.sleep(0.001)
        assert taken.empty()

    run(body)
    goes_on.set()
    waits.threads[0].join(10)
    assert not waits.threads[0].is_alive()
    assert not recwarn.list


# ---- in the engine client, with a scheduler on a real socket ----------------------------------------


def talk(tmp_path: Path, body: Callable[[EngineClient, FakeScheduler], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        scheduler = FakeScheduler(f"ipc://{tmp_path}/f.sock", 1000)
        client = EngineClient(f"ipc://{tmp_path}/f.sock")
        try:
            async with asyncio.timeout(20):
                await client.start(10)
                scheduler.script = lambda submit: [submit.prompt[0] + i for i in range(20)]
                await body(client, scheduler)
        finally:
            await client.close()
            scheduler.close()

    uvloop.run(all_of_it())


async def tokens_of(client: EngineClient, start: int, constraint: FakeConstraint) -> list[int]:
    source = client.generate([start], GREEDY, 20, [2], constraint=constraint)
    async with aclosing(source) as chunks:
        return [token async for chunk in chunks for token in chunk.token_ids]


@pytest.mark.parametrize("mask_s", [INLINE_S / 1000, 1.0], ids=["on the spot", "in threads"])
def test_every_token_but_the_last_is_followed_by_its_mask(tmp_path: Path, mask_s: float) -> None:
    constraints = [FakeConstraint(mask_s) for _ in range(8)]

    async def body(client: EngineClient, scheduler: FakeScheduler) -> None:
        scheduler.paused.set()
        several = [tokens_of(client, 100 * number, one) for number, one in enumerate(constraints, 1)]
        tasks = [asyncio.create_task(one) for one in several]
        while len(scheduler.masks) < len(constraints):
            await asyncio.sleep(0.001)
        scheduler.paused.clear()
        got = await asyncio.gather(*tasks)
        assert got == [list(range(100 * n, 100 * n + 20)) for n in range(1, len(constraints) + 1)]
        for number, one in enumerate(constraints, 1):
            assert [(output, token) for output, token, _ in one.asked] == [
                (0, 100 * number + place) for place in range(19)
            ]
        places = sorted((mask.request_id, mask.num_generated) for mask in scheduler.masks)
        assert places == sorted((submit.request_id, k) for submit in scheduler.submits for k in range(20))
        if mask_s < INLINE_S:  # of one commit in one message; the first ones come with their requests
            assert scheduler.num_mask_messages == len(constraints) + 19

    talk(tmp_path, body)


@pytest.mark.parametrize("mask_s", [INLINE_S / 1000, 1.0], ids=["on the spot", "in threads"])
def test_a_mask_that_cannot_be_computed_ends_its_own_request_alone(tmp_path: Path, mask_s: float) -> None:
    def fail() -> None:
        raise RuntimeError("too complex")

    async def body(client: EngineClient, scheduler: FakeScheduler) -> None:
        fine, broken = FakeConstraint(mask_s), FakeConstraint(mask_s, fail)
        first, second = await asyncio.gather(
            tokens_of(client, 100, fine), tokens_of(client, 200, broken), return_exceptions=True
        )
        assert first == list(range(100, 120))
        assert isinstance(second, RuntimeError)
        (failed,) = [submit.request_id for submit in scheduler.submits if submit.prompt[0] == 200]
        while scheduler.cancelled != [failed]:
            await asyncio.sleep(0.001)
        assert client.num_open == 0

    talk(tmp_path, body)
