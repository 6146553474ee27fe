"""The form of a request's answer, whole and as server-sent events, whichever API it is asked through.

Knows what there is to show; nothing of where it comes from, or of any API's shapes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gllm.frontend.errors import ApiError
from gllm.frontend.text_output import TextDelta, TextResult


@dataclass(slots=True)
class Usage:
    """Tokens of one request: its prompts, and all that was generated, shown or not."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(frozen=True, slots=True)
class Shows:
    """What an answer shows beside its text.

    usage: a stream ends with a chunk of counts (and all others carry a null in its place, or with
    continuous_usage the counts so far).
    """

    usage: bool = False
    continuous_usage: bool = False
    logprobs: bool = False
    prompt_logprobs: bool = False
    token_ids: bool = False


TEXT_ALONE = Shows()


class Answer(ABC):
    """The form of one request's answer, whole or as events."""

    @abstractmethod
    def whole(self, results: Sequence[TextResult], usage: Usage) -> bytes:
        """The answer of a request that is not streamed."""

    @abstractmethod
    def opening(self, num_choices: int, usage: Usage) -> bytes:
        """The events before any text; `usage` counts the prompts."""

    @abstractmethod
    def event(self, index: int, delta: TextDelta, usage: Usage) -> bytes:
        """The event of one delta; nothing where it has nothing to show. usage: the counts so far."""

    @abstractmethod
    def closing(self, usage: Usage) -> bytes:
        """The events after all text."""

    @abstractmethod
    def failure(self, error: ApiError) -> bytes:
        """The end of a stream that began well."""
