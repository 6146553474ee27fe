"""The engine client against a scheduler on a real socket: order, cancelling, refusal, loss, memory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from fake_scheduler import FakeScheduler

from gllm.frontend.engine import EngineClient, EngineLost, Refused
from gllm.protocol.messages import FinishReason, RejectCode, Rejected, Sampling, Submit

GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)
VOCAB = 1000
EOS = 2


@asynccontextmanager
async def connected(tmp_path: Path) -> AsyncIterator[tuple[EngineClient, FakeScheduler]]:
    address = f"ipc://{tmp_path}/f.sock"
    scheduler = FakeScheduler(address, VOCAB)
    client = EngineClient(address)
    try:
        await client.start(60)
        yield client, scheduler
    finally:
        await client.close()
        scheduler.close()


def run(tmp_path: Path, body: Callable[[EngineClient, FakeScheduler], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        async with asyncio.timeout(120):
            async with connected(tmp_path) as (client, scheduler):
                await body(client, scheduler)
                assert client.num_open == 0

    uvloop.run(all_of_it())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def counting(submit: Submit) -> list[int]:
    """Each request gets numbers that tell whose they are."""
    return [submit.prompt[0] + i for i in range(20)]


def test_many_requests_at_once_get_each_its_own_tokens(tmp_path: Path) -> None:
    async def body(client: EngineClient, scheduler: FakeScheduler) -> None:
        scheduler.script = counting

        async def one(start: int) -> list[int]:
            tokens: list[int] = []
            async for chunk in client.generate([start], GREEDY, 20, [EOS]):
                tokens += chunk.token_ids
                reason = chunk.finish_reason
            assert reason is FinishReason.LENGTH
            return tokens

        outputs = await asyncio.gather(*(one(100 + i) for i in range(50)))
        assert outputs == [list(range(100 + i, 120 + i)) for i in range(50)]
        assert client.limits == scheduler.ready

    run(tmp_path, body)


def test_the_request_travels_whole(tmp_path: Path) -> None:
    async def body(client: EngineClient, scheduler: FakeScheduler) -> None:
        scheduler.script = lambda _submit: [7, EOS]
        sampling = Sampling(temperature=0.5, top_k=3, top_p=0.25, seed=2**63 - 1)
        chunks = [chunk async for chunk in client.generate([5, 6], sampling, 9, [EOS, 4])]
        assert [token for chunk in chunks for token in chunk.token_ids] == [7, EOS]
        assert chunks[-1].finish_reason is FinishReason.STOP
        (submit,) = scheduler.submits
        assert list(submit.prompt) == [5, 6]
        assert (submit.sampling, submit.n, submit.generated) == (sampling, 1, [])
        assert list(submit.stop_token_ids) == [EOS, 4]

    run(tmp_path, body)


def test_leaving_between_two_tokens_cancels(tmp_path: Path) -> None:
    async def body(client: EngineClient, scheduler: FakeScheduler) -> None:
        scheduler.script = lambda _submit: [7, 8]
        async with aclosing(client.generate([5], GREEDY, 9, [])) as left:
            await anext(left)
        await until(lambda: scheduler.cancelled == [scheduler.submits[0].request_id])

    run(tmp_path, body)


def test_a_cancelled_task_cancels_its_request(tmp_path: Path) -> None:
    async def body(client: EngineClient, scheduler: FakeScheduler) -> None:
        task = asyncio.ensure_future(anext(client.generate([5], GREEDY, 9, [])))
        await until(lambda: len(scheduler.submits) == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: scheduler.cancelled == [scheduler.submits[0].request_id])

    run(tmp_path, body)


def test_what_ended_is_not_cancelled(tmp_path: Path) -> None:
    async def body(client: EngineClient, scheduler: FakeScheduler) -> None:
        scheduler.script = lambda _submit: [7, 8]
        async with aclosing(client.generate([5], GREEDY, 2, [])) as ended:
            assert [token async for chunk in ended for token in chunk.token_ids] == [7, 8]
        await client.stats()  # answered after everything sent before
        assert scheduler.cancelled == []

    run(tmp_path, body)


def test_a_slow_reader_gets_more_tokens_at_once_and_none_twice(tmp_path: Path) -> None:
    async def body(client: EngineClient, scheduler: FakeScheduler) -> None:
        scheduler.script = lambda _submit: list(range(3, 103))
        sizes, tokens = [], []
        async for chunk in client.generate([5], GREEDY, 100, []):
            sizes.append(len(chunk.token_ids))
            tokens += chunk.token_ids
            await asyncio.sleep(0.05)
        assert tokens == list(range(3, 103))
        assert max(sizes) > 1

    run(tmp_path, body)


def test_a_refusal_is_raised_with_its_sentence(tmp_path: Path) -> None:
    async def body(client: EngineClient, scheduler: FakeScheduler) -> None:
        scheduler.reject = Rejected(0, RejectCode.OVERLOADED, "2048 requests wait already")
        with pytest.raises(Refused, match="2048 requests") as refusal:
            await anext(client.generate([5], GREEDY, 9, []))
        assert refusal.value.code is RejectCode.OVERLOADED

    run(tmp_path, body)


def test_a_lost_scheduler_fails_what_was_open_and_the_next_one_serves(tmp_path: Path) -> None:
    async def everything() -> None:
        async with asyncio.timeout(120):
            async with connected(tmp_path) as (client, scheduler):
                stream = client.generate([5], GREEDY, 9, [])
                waiting = asyncio.ensure_future(anext(stream))
                await until(lambda: len(scheduler.submits) == 1)
                scheduler.close()
                with pytest.raises(EngineLost, match="gone"):
                    await waiting
                with pytest.raises(EngineLost, match="gone"):
                    await anext(client.generate([5], GREEDY, 9, []))
                with pytest.raises(EngineLost, match="gone"):
                    await client.stats()
                following = FakeScheduler(f"ipc://{tmp_path}/f.sock", VOCAB, max_model_len=128)
                following.script = lambda _submit: [7]
                await until(lambda: following.hellos == 1)
                await until(lambda: client.limits == following.ready)
                (chunk,) = [chunk async for chunk in client.generate([5], GREEDY, 1, [])]
                assert chunk.token_ids == [7]
                assert len(following.submits) == 1
                following.close()

    uvloop.run(everything())


def test_a_scheduler_that_never_answers_is_reported_in_time(tmp_path: Path) -> None:
    async def body() -> None:
        client = EngineClient(f"ipc://{tmp_path}/nobody.sock")
        with pytest.raises(EngineLost, match="did not answer"):
            await client.start(0.1)
        with pytest.raises(EngineLost, match="not connected"):
            _ = client.limits
        await client.close()

    uvloop.run(body())


def test_an_address_that_cannot_be_is_reported_at_once() -> None:
    async def body() -> None:
        client = EngineClient("nonsense")
        with pytest.raises(EngineLost, match="failed"):
            await client.start(None)
        await client.close()

    uvloop.run(body())


def test_closing_fails_what_is_open(tmp_path: Path) -> None:
    async def everything() -> None:
        async with connected(tmp_path) as (client, scheduler):
            waiting = asyncio.ensure_future(anext(client.generate([5], GREEDY, 9, [])))
            await until(lambda: len(scheduler.submits) == 1)
            await client.close()
            with pytest.raises(EngineLost, match="closed"):
                await waiting

    uvloop.run(everything())


def test_one_who_gives_up_on_the_stats_takes_them_from_nobody(tmp_path: Path) -> None:
    async def body(client: EngineClient, scheduler: FakeScheduler) -> None:
        scheduler.answers_stats = False
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.stats(), 0.1)
        patient = asyncio.ensure_future(client.stats())
        await asyncio.sleep(0.02)
        assert not patient.done()
        scheduler.answers_stats = True
        client._stats = None  # the first question was dropped; a fresh one is answered
        assert (await client.stats()).num_running == 0
        patient.cancel()

    run(tmp_path, body)
