"""The frontend's end of the engine: token ids in, token ids out, over one socket to the scheduler.

Knows nothing of text or HTTP, so that the server and the offline `LLM` share it. It keeps each open
request's prompt and delivered tokens: a sequence is its tokens, and these are all a new scheduler
would need.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress

from gllm.frontend.logprobs import read_logprobs
from gllm.frontend.masking import Due, Masking
from gllm.frontend.open_request import Chunk, Constraint, OpenRequest, Output, Refused
from gllm.frontend.params import QueueParams
from gllm.frontend.request_meters import RequestMeters
from gllm.frontend.scheduler_link import EngineLost, SchedulerLink
from gllm.protocol.messages import (
    MAX_MASKS,
    Cancel,
    FinishReason,
    ListRequests,
    Mask,
    Masks,
    Message,
    PrefixCacheReset,
    RejectCode,
    Rejected,
    Report,
    RequestList,
    ResetPrefixCache,
    Sampling,
    SchedulerReady,
    Stats,
    StatsRequest,
    Submit,
    Tokens,
)
from gllm.protocol.wire import INT32_MAX, column

__all__ = ["QUEUE_AS_IT_COMES", "Chunk", "Constraint", "EngineClient", "EngineLost", "Refused"]

log = logging.getLogger("gllm")

QUEUE_AS_IT_COMES = QueueParams()


class EngineClient:
    """One connection to a scheduler, for any number of requests at once; lives in one event loop."""

    def __init__(self, address: str) -> None:
        self._link = SchedulerLink(address, take=self._take, lost=self._lose)
        self._ids = itertools.count(1)
        self._open: dict[int, OpenRequest] = {}
        self.meters = RequestMeters()
        self._stats: asyncio.Future[Stats] | None = None
        self._masking = Masking(self._send_masks)
        self._sending: set[asyncio.Task[None]] = set()  # kept until they are done
        self._asked: dict[int, asyncio.Future[Message]] = {}

    async def start(self, timeout_s: float | None) -> SchedulerReady:
        """Connect and wait for the scheduler; raises `EngineLost` if it does not answer in time."""
        return await self._link.start(timeout_s)

    @property
    def limits(self) -> SchedulerReady:
        """What the engine can hold; known once `start` returned."""
        return self._link.limits

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
        request = OpenRequest(column(prompt), [Output() for _ in range(n)], constraint)
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
                await self._send(Masks([Mask(request_id, o, 0, constraint.first_mask) for o in range(n)]))
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
        self._masking.close()
        await self._link.close()

    def _next_id(self) -> int:
        while (request_id := next(self._ids) & INT32_MAX) in self._open:
            pass
        return request_id

    async def _send(self, message: Message) -> None:
        await self._link.send(message)

    def _deliver(self, message: Tokens) -> None:
        """The hot path: one commit, up to some hundred rows. Readers run only after it."""
        find = self._open.get
        constrained: list[tuple[int, int, OpenRequest]] = []
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
        if constrained:
            self._masking.compute([Due(*row) for row in constrained if row[2].outputs[row[1]].goes_on])

    def _send_masks(self, answered: list[Due]) -> None:
        """Tell the scheduler what may follow the newest tokens; who cannot say it ends the request."""
        masks, failed = [], []
        for due in answered:
            if self._open.get(due.request_id) is not due.request:
                continue  # it was closed meanwhile
            if isinstance(due.answer, bytes):
                masks.append(Mask(due.request_id, due.output, due.num_generated, due.answer))
            else:
                due.request.error = due.request.error or due.answer
                due.request.wake()
                failed.append(due.request_id)
        if failed:
            self._send_soon(Cancel(column(failed)))
        for start in range(0, len(masks), MAX_MASKS):
            self._send_soon(Masks(masks[start : start + MAX_MASKS]))

    def _send_soon(self, message: Message) -> None:
        task = asyncio.create_task(self._send_if_anyone(message))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send_if_anyone(self, message: Message) -> None:
        with suppress(EngineLost):
            await self._send(message)

    def _take(self, message: Message) -> None:
        match message:
            case Tokens():
                self._deliver(message)
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
