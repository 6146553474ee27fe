"""What an offline call gives back, and the bar that shows it coming.

The names are those of vLLM's results. Knows nothing of how they are made.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from gllm.frontend.logprobs import BytesOf, TokenLogprobs
from gllm.frontend.text_output import TextResult


@dataclass(frozen=True, slots=True)
class Logprob:
    """Of one token at one position. rank: 1 is the likeliest token there."""

    logprob: float
    rank: int
    decoded_token: str


LogprobTable = list[dict[int, Logprob] | None]


@dataclass(slots=True)
class CompletionOutput:
    """One output of a request.

    finish_reason: "stop" or "length". stop_reason: the stop string or stop token id that ended it,
    None for the model's own end of text. token_ids include a stop token, text does not show it.
    logprobs, if asked for: of each token an object by token id, itself and the likeliest.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None
    stop_reason: str | int | None = None
    logprobs: LogprobTable | None = None
    cumulative_logprob: float | None = None


@dataclass(slots=True)
class RequestOutput:
    """A prompt and what followed it; `prompt` is None where only token ids were given."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True
    prompt_logprobs: LogprobTable | None = None  # None for the first token, which nothing comes before


def completion_output(index: int, result: TextResult, bytes_of: BytesOf) -> CompletionOutput:
    """One output as a caller gets it."""
    output = CompletionOutput(index, result.text, result.token_ids, result.finish_reason, result.stop_reason)
    if result.logprobs:
        output.logprobs = [_entries(position, bytes_of) for position in result.logprobs]
        output.cumulative_logprob = sum(position.own for position in result.logprobs)
    return output


def prompt_table(
    prompt: Sequence[int], positions: Mapping[int, TokenLogprobs] | None, bytes_of: BytesOf
) -> LogprobTable:
    """Of each prompt token an object by token id."""
    told = positions or {}
    return [None, *(_entries(told[place], bytes_of) for place in range(1, len(prompt)))]


def _entries(position: TokenLogprobs, bytes_of: BytesOf) -> dict[int, Logprob]:
    entries: dict[int, Logprob] = {}
    for index, (token, value) in enumerate(zip(position.token_ids, position.values, strict=True)):
        text = bytes_of(token).decode(errors="replace")
        entries.setdefault(token, Logprob(value, index or position.rank, text))
    return entries


class Progress:
    """A bar over finished requests, with tokens a second."""

    def __init__(self, num_requests: int, show: bool) -> None:
        self._bar = tqdm(total=num_requests, desc="Processed prompts", disable=not show, dynamic_ncols=True)
        self._began = time.perf_counter()
        self._num_input = self._num_output = 0

    def take(self, output: RequestOutput) -> None:
        self._num_input += len(output.prompt_token_ids)
        self._num_output += sum(len(one.token_ids) for one in output.outputs)
        seconds = time.perf_counter() - self._began
        speed = (
            f"input: {self._num_input / seconds:.1f} toks/s, output: {self._num_output / seconds:.1f} toks/s"
        )
        self._bar.set_postfix_str(speed, refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()
