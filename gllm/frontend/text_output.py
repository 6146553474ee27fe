"""An output of a prompt as text: piece by piece, and whole.

Knows nothing of where it comes from or how it is sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gllm.frontend.logprobs import TokenLogprobs
from gllm.frontend.tool_calls.call import CallPiece, ToolCall, joined


@dataclass(slots=True)
class TextDelta:
    """What came since the last delta; `text` may be empty while a character or a stop string is unfinished.

    stop_reason: the stop string or stop token id that ended it, None for the model's own end of text.
    num_cached_tokens: of the prompt, found in the prefix cache; the same in every delta of a prompt.
    output: which of the outputs of one prompt. logprobs: of each of the tokens, if asked for;
    prompt_logprobs by position. echoed: the prompt's tokens, where its text begins this one.
    call: in place of text, where calls are read; never with a finish reason.
    """

    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    num_cached_tokens: int = 0
    call: CallPiece | None = None
    output: int = 0
    logprobs: Sequence[TokenLogprobs] = ()
    prompt_logprobs: Mapping[int, TokenLogprobs] | None = None
    echoed: Sequence[int] = ()


@dataclass(slots=True)
class TextResult:
    """A whole output. `token_ids` counts every generated token, a stop token included.

    parts: its text, and the calls of tools in it, in order.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    num_cached_tokens: int = 0
    parts: list[str | ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: Mapping[int, TokenLogprobs] | None = None
    echoed: Sequence[int] = ()
    prompt: Sequence[int] = ()  # its token ids

    @property
    def mean_logprob(self) -> float:
        """Of the tokens, whose log-probabilities must have been asked for."""
        return sum(position.own for position in self.logprobs) / max(len(self.logprobs), 1)

    @classmethod
    def of(cls, deltas: Sequence[TextDelta]) -> "TextResult":
        """The output that these deltas make up."""
        result = cls("".join([delta.text for delta in deltas]))
        result.parts = joined(delta.call or delta.text for delta in deltas)
        for delta in deltas:
            result.token_ids += delta.token_ids
            result.logprobs += delta.logprobs
            result.prompt_logprobs = delta.prompt_logprobs
            result.echoed = result.echoed or delta.echoed
            result.finish_reason, result.stop_reason = delta.finish_reason, delta.stop_reason
            result.num_cached_tokens = delta.num_cached_tokens
        return result

    @property
    def tool_calls(self) -> list[ToolCall]:
        return [part for part in self.parts if isinstance(part, ToolCall)]
