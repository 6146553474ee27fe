"""What an offline call gives back, and the bar that shows it coming.

The names are those of vLLM's results. Knows nothing of how they are made.
"""

import time
from dataclasses import dataclass

from tqdm import tqdm


@dataclass(slots=True)
class CompletionOutput:
    """One output of a request.

    finish_reason: "stop" or "length". stop_reason: the stop string or stop token id that ended it,
    None for the model's own end of text. token_ids include a stop token, text does not show it.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None
    stop_reason: str | int | None = None


@dataclass(slots=True)
class RequestOutput:
    """A prompt and what followed it; `prompt` is None where only token ids were given."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True


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
