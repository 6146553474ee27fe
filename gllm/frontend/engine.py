"""The frontend's end of the engine: token ids in, token ids out, over one socket to the scheduler.

Knows nothing of text or HTTP, so that the server and the offline `LLM` share it. It keeps each open
request's prompt and delivered tokens: a sequence is its tokens, and these are all a new scheduler
would need.
"""

import asyncio
import itertools
import logging
import time
from array import array
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import zmq
import zmq.asyncio

from gllm.frontend.logprobs import TokenLogprobs, read_logprobs
from gllm.frontend.params import QueueParams
from gllm.frontend.request_meters import RequestMeters
from gllm.protocol.channel import AsyncChannel, PeerGone, hello
from gllm.protocol.messages import (
    Cancel,
    FinishReason,
    ListRequests,
    Mask,
    Message,
    PrefixCacheReset,
    RejectCode,
    Rejected,
    Report,
    RequestList,
    ResetPrefixCache,
    Role,
    Sampling,
    SchedulerReady,
    Stats,
    StatsRequest,
    Submit,
    Tokens,
)
from gllm.protocol.wire import INT32_MAX, Column, ProtocolError, column

log = logging.getLogger("gllm")

QUEUE_AS_IT_COMES = QueueParams()


class EngineLost(ConnectionError):
    """The scheduler does not answer any more; what was open there is lost."""


class Refused(Exception):
    """The scheduler did not take this request."""

    def __init__(self, code: RejectCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


@dataclass(slots=True)
class Chunk:
    """Tokens of one output since its last chunk (several commits at once when the reader is slow).

    logprobs: of each token, where they were asked for. is_enough: set by a reader who wants no more of
    this output.
    """

    output: int
    token_ids: list[int]
    finish_reason: FinishReason | None
    num_cached_tokens: int  # of the prompt, found in the prefix cache
    logprobs: list[TokenLogprobs]
    prompt_logprobs: Mapping[int, TokenLogprobs]  # by position; all of them are there with the first token
    is_enough: bool = False


class Constraint(Protocol):
    """What the tokens of one request may be. first_mask: of the first token of every output."""

    @property
    def first_mask(self) -> bytes: ...

    async def mask_after(self, output: int, token: int) -> bytes:
        """The mask of what follows `token`, the newest of that output; what it raises ends the request."""


@dataclass(slots=True)
class _Output:
    """One output of a request. `tokens` grows as they arrive, the reader has taken the first `num_taken`."""

    tokens: "Column[int]" = field(default_factory=lambda: array("i"))
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    num_taken: int = 0
    finish_reason: FinishReason | None = None
    is_over: bool = False  # the reader has its end, or wants no more


@dataclass(slots=True)
class _Open:
    """A request that the scheduler works on."""

    prompt: "Column[int]"
    outputs: list[_Output]
    constraint: Constraint | None = None
    num_cached_tokens: int = 0
    prompt_logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)  # by position
    error: Exception | None = None
    reader: "asyncio.Future[None] | None" = None

    def wake(self) -> None:
        reader = self.reader
        if reader is not None and not reader.done():
            reader.set_result(None)

    def take(self) -> Chunk | None:
        """What the reader has not seen yet of the first output that has something."""
        for number, output in enumerate(self.outputs):
            start = output.num_taken
            if output.is_over or (start == len(output.tokens) and output.finish_reason is None):
                continue
            output.num_taken = len(output.tokens)
            output.is_over = output.finish_reason is not None
            tokens, logprobs = output.tokens[start:].tolist(), output.logprobs[start:]
            return Chunk(
                number, tokens, output.finish_reason, self.num_cached_tokens, logprobs, self.prompt_logprobs
            )
        return None


class EngineClient:
    """One connection to a scheduler, for any number of requests at once; lives in one event loop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._ids = itertools.count(1)
        self._open: dict[int, _Open] = {}
        self._limits: SchedulerReady | None = None
        self._channel: AsyncChannel | None = None  # None: no scheduler has answered on it, or it is gone
        self._why_lost = "the engine is not connected yet"
        self._ready = asyncio.Event()
        self.meters = RequestMeters()
        self._stats: asyncio.Future[Stats] | None = None
        self._masking: set[asyncio.Task[None]] = set()  # kept until they are done
        self._asked: dict[int, asyncio.Future[Message]] = {}
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

    @property
    def num_open(self) -> int:
        """Requests that have not ended."""
        return len(self._open)

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        max_tokens: int,
        stop_token_ids: Sequence[int],
        queue: QueueParams = QUEUE_AS_IT_COMES,
        constraint: Constraint | None = None,
        n: int = 1,
    ) -> AsyncGenerator[Chunk, None]:
        """What follows `prompt`, `n` times, as it comes; each output's last chunk has a finish reason.

        Closing the iterator before that cancels the request, `Chunk.is_enough` one output. constraint:
        says what each token may be, while the steps of other requests run. Raises `Refused` where the
        scheduler does not take it and `EngineLost` where the scheduler is gone.
        """
        request_id = self._next_id()
        request = _Open(column(prompt), [_Output() for _ in range(n)], constraint)
        submit = Submit(
            request_id=request_id,
            prompt=request.prompt,
            generated=[],
            sampling=sampling,
            max_tokens=max_tokens,
            stop_token_ids=column(stop_token_ids),
            n=n,
            priority=queue.priority,
            timeout_s=queue.timeout_s or 0.0,
            cache_salt=queue.cache_salt,
            is_constrained=constraint is not None,
            name=queue.name,
        )
        self._open[request_id] = request
        self.meters.submitted(submit, queue.tenant)
        num_open, num_enough = n, 0
        try:
            await self._send(submit)
            if constraint is not None:
                for output in range(n):
                    await self._send(Mask(request_id, output, 0, constraint.first_mask))
            loop = asyncio.get_running_loop()
            while num_open:
                chunk = request.take()
                if chunk is None:
                    if request.error is not None:
                        raise request.error
                    request.reader = loop.create_future()
                    await request.reader
                    continue
                yield chunk
                # The chunk's own reason: meanwhile more tokens may have come, and the end with them.
                if chunk.finish_reason is not None:
                    num_open -= 1
                elif chunk.is_enough:
                    num_open -= 1
                    num_enough += 1
                    request.outputs[chunk.output].is_over = True
                    if num_open:
                        await self._send(Cancel(column((request_id,)), column((chunk.output,))))
        finally:
            del self._open[request_id]
            is_enough = num_enough > 0 and num_open == 0
            self.meters.closed(submit, queue.tenant, request.error, is_enough=is_enough)
            if request.error is None and any(output.finish_reason is None for output in request.outputs):
                with suppress(EngineLost):
                    await self._send(Cancel(column((request_id,))))

    async def stats(self) -> Stats:
        """The scheduler's state now; waits for as long as the scheduler takes."""
        stats = self._stats
        if stats is None:
            await self.report()
            await self._send(StatsRequest())
            stats = self._stats = asyncio.get_running_loop().create_future()
        # Shielded: a caller that gives up must not take the answer away from the others.
        return await asyncio.shield(stats)

    async def report(self) -> None:
        """Tell the scheduler what was counted here, so that a scrape of another frontend shows it, too."""
        await self._send(Report(self.meters.series()))

    async def requests(self, name: str, most: int) -> RequestList:
        """The sequences that run and wait at the scheduler, of all frontends; `name` "": all of them."""
        answer = await self._ask(lambda question: ListRequests(question, name, most))
        assert isinstance(answer, RequestList)
        return answer

    async def reset_prefix_cache(self) -> int:
        """Have the scheduler forget what its pages contain; how many could have been found before."""
        answer = await self._ask(ResetPrefixCache)
        assert isinstance(answer, PrefixCacheReset)
        return answer.num_pages

    async def _ask(self, message: Callable[[int], Message]) -> Message:
        """The answer to a question, which carries its number."""
        question = self._next_id()
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[question] = answer
        try:
            await self._send(message(question))
            return await answer
        finally:
            self._asked.pop(question, None)

    async def close(self) -> None:
        """End the connection; open requests raise `EngineLost`."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)
            self._life = None

    def _next_id(self) -> int:
        while (request_id := next(self._ids) & INT32_MAX) in self._open:
            pass
        return request_id

    async def _send(self, message: Message) -> None:
        if self._channel is None:
            raise EngineLost(self._why_lost)
        try:
            await self._channel.send(message)
        except PeerGone:
            raise EngineLost("the scheduler takes no more messages") from None

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
        while True:
            message = await channel.receive()
            if isinstance(message, Tokens):
                self._deliver(message)
            elif isinstance(message, SchedulerReady):
                self._limits = message
                self._channel = channel
                self._ready.set()
            else:
                self._take(message)

    def _deliver(self, message: Tokens) -> None:
        """The hot path: one commit, up to some hundred rows. Readers run only after it."""
        find = self._open.get
        constrained: list[tuple[int, int, _Open]] = []
        numbers = message.outputs or column(bytes(4 * len(message.tokens)))
        for request_id, number, token in zip(message.request_ids, numbers, message.tokens, strict=True):
            request = find(request_id)
            if request is not None:  # else: cancelled, and the scheduler did not know yet
                request.outputs[number].tokens.append(token)
                request.wake()
                if request.constraint is not None:
                    constrained.append((request_id, number, request))
        for mark in message.cached:
            request = find(message.request_ids[mark.row])
            if request is not None and not numbers[mark.row]:  # the others find what the first one computes
                request.num_cached_tokens = mark.num_tokens
        for item in message.finished:
            request = find(message.request_ids[item.row])
            if request is not None:
                request.outputs[numbers[item.row]].finish_reason = FinishReason(item.reason)
        if message.logprobs is not None:
            for row, logprobs in read_logprobs(message.logprobs):
                request = find(message.request_ids[row])
                if request is not None:
                    request.outputs[numbers[row]].logprobs.append(logprobs)
        for part in message.prompt_logprobs:
            request = find(part.owner)
            if request is not None:
                request.prompt_logprobs.update(read_logprobs(part.logprobs))
        self.meters.delivered(message, time.monotonic())
        for request_id, number, request in constrained:
            output = request.outputs[number]
            if output.finish_reason is None and not output.is_over:
                task = asyncio.create_task(self._send_mask(request_id, number, request))
                self._masking.add(task)
                task.add_done_callback(self._masking.discard)

    async def _send_mask(self, request_id: int, number: int, request: _Open) -> None:
        """Tell the scheduler what may follow the newest token; who cannot say it ends the request."""
        assert request.constraint is not None
        tokens = request.outputs[number].tokens
        num_generated = len(tokens)
        message: Message
        try:
            bits = await request.constraint.mask_after(number, tokens[-1])
            message = Mask(request_id, number, num_generated, bits)
        except Exception as error:
            request.error = request.error or error
            request.wake()
            message = Cancel(column((request_id,)))
        if request.error is not None or self._open.get(request_id) is request:
            with suppress(EngineLost):
                await self._send(message)

    def _take(self, message: Message) -> None:
        match message:
            case Rejected() if (request := self._open.get(message.request_id)) is not None:
                request.error = Refused(RejectCode(message.code), message.sentence)
                request.wake()
            case Stats() if self._stats is not None:
                if not self._stats.done():
                    self._stats.set_result(message)
                self._stats = None
            case RequestList() | PrefixCacheReset() if message.question in self._asked:
                if not (answer := self._asked[message.question]).done():
                    answer.set_result(message)
            case _:
                log.debug("nothing waits for %s", type(message).__name__)

    def _lose(self, sentence: str) -> None:
        """Everything that was open at this scheduler fails."""
        self._channel = None
        self._why_lost = sentence
        for request in self._open.values():
            request.error = request.error or EngineLost(sentence)
            request.wake()
        if self._stats is not None and not self._stats.done():
            self._stats.set_exception(EngineLost(sentence))
            self._stats.exception()  # seen: perhaps nobody waits any more
        self._stats = None
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(EngineLost(sentence))
