"""Outputs that begin with their prompt, as completions may ask for.

Knows deltas; nothing of HTTP or of how prompts are read.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from gllm.frontend.text_output import TextDelta


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt, as it is shown. is_all: nothing is shown behind it."""

    text: str
    token_ids: Sequence[int]
    is_all: bool = False


async def with_echo(stream: AsyncGenerator[TextDelta, None], echo: Echo) -> AsyncGenerator[TextDelta, None]:
    """The deltas of `stream`, the first of each output with the prompt before its own text."""
    begun: set[int] = set()
    async with aclosing(stream):
        async for delta in stream:
            if delta.output not in begun:
                begun.add(delta.output)
                delta.echoed = echo.token_ids
                delta.text = echo.text + ("" if echo.is_all else delta.text)
                if echo.is_all:  # a token had to be generated, for the log-probabilities of the prompt
                    delta.token_ids, delta.logprobs = [], ()
                    delta.finish_reason, delta.stop_reason = "length", None
            yield delta
