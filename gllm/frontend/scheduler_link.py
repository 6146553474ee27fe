"""The connection to the scheduler and its life: connect, greet, receive, and again with the next scheduler.

Knows nothing of requests: what arrives goes to whoever made the link, who also hears of each loss.
"""

import asyncio
import logging
from collections.abc import Callable

import zmq
import zmq.asyncio

from gllm.protocol.channel import AsyncChannel, PeerGone, hello
from gllm.protocol.messages import Message, Role, SchedulerReady
from gllm.protocol.wire import ProtocolError

log = logging.getLogger("gllm")


class EngineLost(ConnectionError):
    """The scheduler does not answer any more; what was open there is lost."""


class SchedulerLink:
    """A connection that outlives the scheduler at its other end; lives in one event loop.

    take: called with each message but `SchedulerReady`. lost: called with a sentence when a scheduler is
    gone; from then on `send` raises `EngineLost` with it, until the next scheduler has answered.
    """

    def __init__(self, address: str, take: Callable[[Message], None], lost: Callable[[str], None]) -> None:
        self._address = address
        self._take = take
        self._lost = lost
        self._limits: SchedulerReady | None = None
        self._channel: AsyncChannel | None = None  # None: no scheduler has answered on it, or it is gone
        self._why_lost = "the engine is not connected yet"
        self._ready = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    async def start(self, timeout_s: float | None) -> SchedulerReady:
        """Connect and wait for the scheduler; raises `EngineLost` if it does not answer in time."""
        self._life = asyncio.create_task(self._live())
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait((ready, self._life), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self._limits is None:
            ready.cancel()
            if self._life.done():
                raise EngineLost(self._why_lost)
            raise EngineLost(f"the scheduler did not answer within {timeout_s} s")
        return self._limits

    @property
    def limits(self) -> SchedulerReady:
        """What the engine can hold; known once `start` returned."""
        if self._limits is None:
            raise EngineLost("the engine is not connected yet")
        return self._limits

    async def send(self, message: Message) -> None:
        """Raises `EngineLost` where no scheduler takes the message."""
        if self._channel is None:
            raise EngineLost(self._why_lost)
        try:
            await self._channel.send(message)
        except PeerGone:
            raise EngineLost("the scheduler takes no more messages") from None

    async def close(self) -> None:
        """End the connection, which counts as a loss."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)
            self._life = None

    async def _live(self) -> None:
        """Connect, greet, receive until the scheduler goes; then the same with the next one."""
        context = zmq.asyncio.Context()
        try:
            while True:
                # A fresh socket each time: what the former one still held was for the former scheduler.
                channel = AsyncChannel(context, self._address)
                try:
                    await self._serve(channel)
                finally:
                    channel.close()
                self._lose("the scheduler is gone")
        except Exception:
            log.exception("the connection to the scheduler failed")
            self._lose("the connection to the scheduler failed")
        except asyncio.CancelledError:
            self._lose("the engine is closed")
        finally:
            context.destroy(linger=0)

    async def _serve(self, channel: AsyncChannel) -> None:
        """One scheduler's time: returns when it is gone, or speaks nonsense."""
        monitor = channel.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        gone = asyncio.ensure_future(monitor.poll())
        receiving = asyncio.create_task(self._receive(channel))
        try:
            await channel.send(hello(Role.FRONTEND))
            await asyncio.wait((gone, receiving), return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                receiving.result()
        except ProtocolError as error:
            log.error("the scheduler sent what is no message: %s", error)
        finally:
            gone.cancel()
            receiving.cancel()
            await asyncio.gather(gone, receiving, return_exceptions=True)
            channel.socket.disable_monitor()
            monitor.close()

    async def _receive(self, channel: AsyncChannel) -> None:
        take = self._take
        while True:
            message = await channel.receive()
            if isinstance(message, SchedulerReady):
                self._limits = message
                self._channel = channel
                self._ready.set()
            else:
                take(message)

    def _lose(self, sentence: str) -> None:
        self._channel = None
        self._why_lost = sentence
        self._lost(sentence)
