"""Answering a client that may leave, or read slowly, at any moment.

Knows ASGI's receive and send; nothing of what is sent.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gllm.frontend.connection import CONNECTION, Connection
from gllm.frontend.errors import ApiError, api_error
from gllm.frontend.text_output import TextDelta

T = TypeVar("T")

WRITE_TIMEOUT_S = 60.0  # a client that takes nothing for so long has left
LOOK_S = 10.0  # how often that is looked at


class ClientGone(Exception):
    """Nobody waits for this answer any more."""


async def unless_gone(
    receive: Receive, work: Coroutine[Any, Any, T], stuck: Callable[[], bool] = lambda: False
) -> T:
    """The result of `work`, which is cancelled when the client leaves or is `stuck` (raises `ClientGone`)."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_gone(receive))
    try:
        while not task.done():
            await asyncio.wait((task, watcher), timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and (watcher.done() or stuck()):
                raise ClientGone
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events: the first, and those that follow.

    An error of the generator becomes the last event, which `failure` makes, for the status line is
    already sent.
    """

    def __init__(
        self, first: bytes, rest: AsyncGenerator[bytes, None], failure: Callable[[ApiError], bytes]
    ) -> None:
        self.status_code = 200
        self.background = None
        # The last one asks proxies of nginx's kind to pass each event on at once.
        self.init_headers(
            {
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "no-cache",
                "x-accel-buffering": "no",
            }
        )
        self._first = first
        self._rest = rest
        self._failure = failure
        self._sending_since: float | None = None

    @classmethod
    async def begin(
        cls,
        receive: Receive,
        events: AsyncGenerator[bytes, None],
        failure: Callable[[ApiError], bytes],
    ) -> "EventStream":
        """The stream of `events` once the first is there: what goes wrong before still gets a status."""
        try:
            return cls(await unless_gone(receive, anext(events)), events, failure)
        except BaseException:
            await events.aclose()
            raise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope.get("state", {}).get(CONNECTION)
        write_event = connection.write_event if isinstance(connection, Connection) else _never
        try:
            await unless_gone(receive, self._write(send, write_event), self._is_stuck)
        except ClientGone:
            pass
        finally:
            await self._rest.aclose()

    async def _write(self, send: Send, write_event: Callable[[bytes], bool]) -> None:
        """write_event: the short way of an event to the client, where there is one."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        last = b""
        try:
            await self._send(send, self._first)
            async for event in self._rest:
                if event and not write_event(event):
                    await self._send(send, event)
        except Exception as error:
            last = self._failure(api_error(error))
        await send({"type": "http.response.body", "body": last})

    async def _send(self, send: Send, event: bytes) -> None:
        if event:
            self._sending_since = time.monotonic()
            await send({"type": "http.response.body", "body": event, "more_body": True})
            self._sending_since = None

    def _is_stuck(self) -> bool:
        since = self._sending_since
        return since is not None and time.monotonic() - since > WRITE_TIMEOUT_S


def _never(event: bytes) -> bool:
    """No short way: not our own server, but an ASGI client in the same process."""
    del event
    return False


async def merged(
    streams: Sequence[AsyncGenerator[TextDelta, None]],
) -> AsyncGenerator[tuple[int, TextDelta], None]:
    """The deltas of several streams with the number of their stream, as they come.

    The first error ends all of them. Holds one delta of each stream at most: a slow reader slows
    them down, and the engine's client gathers tokens meanwhile.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as stream:
            async for delta in stream:
                yield 0, delta
        return
    queue: asyncio.Queue[tuple[int, TextDelta | Exception | None]] = asyncio.Queue(len(streams))

    async def pump(index: int, stream: AsyncGenerator[TextDelta, None]) -> None:
        try:
            async with aclosing(stream):
                async for delta in stream:
                    await queue.put((index, delta))
            await queue.put((index, None))
        except Exception as error:
            await queue.put((index, error))

    pumps = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        num_running = len(pumps)
        while num_running:
            index, item = await queue.get()
            if item is None:
                num_running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield index, item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
