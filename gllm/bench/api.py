"""The two generating routes of OpenAI's API: bodies of requests, and what an event of the stream says.

Knows JSON; nothing of HTTP, clocks or load.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from gllm.bench.datasets import Sample


class Api(ABC):
    """options: fields of every request beside the prompt and its length."""

    ENDPOINT: str

    def __init__(self, model: str, options: Mapping[str, Any]) -> None:
        self._fixed = {
            "model": model,
            "stream": True,
            "stream_options": {"include_usage": True},
            **options,
        }

    def body(self, sample: Sample) -> bytes:
        """The request for `sample`, as JSON."""
        return json.dumps(self._fixed | self._asked(sample), separators=(",", ":")).encode()

    @abstractmethod
    def _asked(self, sample: Sample) -> dict[str, Any]: ...

    @abstractmethod
    def output(self, choice: Mapping[str, Any]) -> str | None:
        """The text of an event's choice; None where the event is no output of the model."""


class Completions(Api):
    ENDPOINT = "/v1/completions"

    def _asked(self, sample: Sample) -> dict[str, Any]:
        prompt = sample.prompt if isinstance(sample.prompt, str) else sample.prompt.tolist()
        return {"prompt": prompt, "max_tokens": sample.num_output_tokens}

    def output(self, choice: Mapping[str, Any]) -> str | None:
        return choice.get("text") or ""  # empty for a special token, which is an output, too


class Chat(Api):
    """Prompts are the only message of a user.

    decode: text of token ids, because a message is text.
    """

    ENDPOINT = "/v1/chat/completions"

    def __init__(self, model: str, options: Mapping[str, Any], decode: Callable[[Any], str]) -> None:
        super().__init__(model, options)
        self._decode = decode

    def _asked(self, sample: Sample) -> dict[str, Any]:
        text = sample.prompt if isinstance(sample.prompt, str) else self._decode(sample.prompt)
        return {
            "messages": [{"role": "user", "content": text}],
            "max_completion_tokens": sample.num_output_tokens,
        }

    def output(self, choice: Mapping[str, Any]) -> str | None:
        delta = choice.get("delta") or {}
        text = delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning") or ""
        # The opening event names the role only, and may come long before the first token.
        return None if not text and "role" in delta and choice.get("finish_reason") is None else text
