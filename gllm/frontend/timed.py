"""The engine client with its work for every commit in the timeline.

A class of its own, so that the event loop costs nothing where no timeline is wanted.
"""

import asyncio
import time

from gllm.frontend.engine import EngineClient
from gllm.protocol.messages import Message, Submit, Tokens
from gllm.timeline import Timeline

LANE = "frontend"


class TimedEngineClient(EngineClient):
    def __init__(self, address: str, timeline: Timeline) -> None:
        super().__init__(address)
        self._timeline = timeline

    async def _send(self, message: Message) -> None:
        start = time.monotonic_ns()
        await super()._send(message)
        if isinstance(message, Submit):
            end = time.monotonic_ns()
            request = message.request_id
            self._timeline.add(LANE, "submit", start, end, request=request, tokens=len(message.prompt))

    def _deliver(self, message: Tokens) -> None:
        """From the tokens of a commit to the last reader that it woke: detokenizing, writing events."""
        start = time.monotonic_ns()
        super()._deliver(message)
        # Callbacks run in the order in which they were asked for: this one behind the woken readers.
        asyncio.get_running_loop().call_soon(self._delivered, start, len(message.tokens))

    def _delivered(self, start: int, num_tokens: int) -> None:
        self._timeline.add(LANE, "process output", start, time.monotonic_ns(), tokens=num_tokens)


def engine_client(address: str, timeline: Timeline | None) -> EngineClient:
    """A client of the scheduler at `address`; with a timeline, one that writes it."""
    return EngineClient(address) if timeline is None else TimedEngineClient(address, timeline)
