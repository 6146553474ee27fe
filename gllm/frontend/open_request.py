"""A request that the scheduler works on, as the frontend keeps it: prompt, outputs, who waits for them.

Knows nothing of the socket or of HTTP: the engine client writes here what arrives, a reader takes it.
"""

import asyncio
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gllm.frontend.logprobs import TokenLogprobs
from gllm.protocol.messages import FinishReason, RejectCode
from gllm.protocol.wire import Column


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
    """What the tokens of one request may be. first_mask: of the first token of every output. mask_s: how
    long the next mask is expected to take, in seconds."""

    @property
    def first_mask(self) -> bytes: ...

    @property
    def mask_s(self) -> float: ...

    def mask_after(self, output: int, token: int) -> bytes:
        """The mask of what follows `token`, the newest of that output; what it raises ends the request.

        Called in any thread, but once a token, and for no output twice at a time.
        """


@dataclass(slots=True)
class Output:
    """One output of a request. `tokens` grows as they arrive, the reader has taken the first `num_taken`."""

    tokens: "Column[int]" = field(default_factory=lambda: array("i"))
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    num_taken: int = 0
    finish_reason: FinishReason | None = None
    is_over: bool = False  # the reader has its end, or wants no more

    @property
    def goes_on(self) -> bool:
        """Whether more tokens may come, and somebody wants them."""
        return self.finish_reason is None and not self.is_over


@dataclass(slots=True)
class OpenRequest:
    """A request that the scheduler works on."""

    prompt: "Column[int]"
    outputs: list[Output]
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
