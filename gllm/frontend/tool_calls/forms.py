"""Which parser reads which form, and how a stream of text goes through one. Knows nothing of HTTP."""

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing

from gllm.config.schema import FrontendConfig
from gllm.frontend.families import Family
from gllm.frontend.text_output import TextDelta
from gllm.frontend.tool_calls.call import CallArguments, CallStart, Piece, ToolParser
from gllm.frontend.tool_calls.named_line import JsonLineParser, PythonLineParser
from gllm.frontend.tool_calls.objects import ObjectsParser
from gllm.frontend.tool_calls.tagged import TaggedParser

FORMS: Mapping[str, Callable[[Collection[str]], ToolParser]] = {
    "hermes": TaggedParser,
    "llama3_json": ObjectsParser,
    "chatglm3": PythonLineParser,
    "glm4": JsonLineParser,
}


def form_in_force(config: FrontendConfig, family: Family | None) -> str | None:
    """The form that the deployment's options choose, else the family's; None: no calls are read."""
    if not config.auto_tool_choice:
        return None
    if config.tool_call_parser != "auto":
        return config.tool_call_parser
    return (family.tool_form or None) if family else None


class Pieces:
    """One answer's pieces: white space around calls is not shown, the rest as the parser gives it."""

    def __init__(self, parser: ToolParser) -> None:
        self._parser = parser
        self._space = ""  # not shown until something that is text follows
        self._after_call = False
        self.num_calls = 0
        self.is_in_call = False

    def read(self, text: str, last: bool) -> list[Piece]:
        """What is known after `text`, neighbouring texts joined."""
        pieces = self._parser.feed(text)
        if last:
            pieces += self._parser.finish()
        shown: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, CallArguments):
                shown.append(piece)
                self.is_in_call = not piece.is_end
            elif isinstance(piece, CallStart):
                shown.append(piece)
                self.num_calls += 1
                self._space, self._after_call, self.is_in_call = "", True, True
            elif text := self._without_space(piece):
                if shown and isinstance(shown[-1], str):
                    shown[-1] += text
                else:
                    shown.append(text)
        if last and self._space:
            shown.append(self._space)
            self._space = ""
        return shown

    def _without_space(self, text: str) -> str:
        if self._after_call:
            text = text.lstrip()
            self._after_call = not text
        text = self._space + text
        shown = text.rstrip()
        self._space = text[len(shown) :]
        return shown


async def with_calls(
    stream: AsyncGenerator[TextDelta, None],
    make_parser: Callable[[], ToolParser],
    is_parallel: bool,
    num_outputs: int,
) -> AsyncGenerator[TextDelta, None]:
    """The deltas of `stream` with calls apart from text: each has one piece of them at most. Each of the
    `num_outputs` outputs has a parser of its own.

    An answer that ends by itself with calls in it, and not within one, has the finish reason "tool_calls".
    Unless `is_parallel` the end of the first call ends it.
    """
    open_outputs = {output: Pieces(make_parser()) for output in range(num_outputs)}
    async with aclosing(stream):
        async for delta in stream:
            pieces = open_outputs.get(delta.output)
            if pieces is None:
                continue  # its first call has ended it, while others go on
            found = pieces.read(delta.text, delta.finish_reason is not None)
            if not is_parallel and (end := _end_of_call(found)):
                del found[end:]
                pieces.is_in_call = False
                delta.finish_reason, delta.stop_reason = "stop", None
            ends_with_call = bool(found) and not isinstance(found[-1], str)
            last = found.pop() if found and not (delta.finish_reason and ends_with_call) else ""
            for piece in found:
                before = TextDelta("", [], num_cached_tokens=delta.num_cached_tokens, output=delta.output)
                yield _delta(before, piece)
            if pieces.num_calls and not pieces.is_in_call and delta.finish_reason == "stop":
                delta.finish_reason = "tool_calls"
            yield _delta(delta, last)
            if delta.finish_reason is not None:
                del open_outputs[delta.output]
                if not open_outputs:
                    return


def _end_of_call(pieces: Sequence[Piece]) -> int | None:
    """The index behind the first end of a call."""
    ends = (at for at, piece in enumerate(pieces, 1) if isinstance(piece, CallArguments) and piece.is_end)
    return next(ends, None)


def _delta(delta: TextDelta, piece: Piece) -> TextDelta:
    """`delta` with `piece` in place of its text."""
    delta.text, delta.call = (piece, None) if isinstance(piece, str) else ("", piece)
    return delta
