"""Log-probabilities of tokens in the forms of both APIs.

Knows JSON shapes and how a token reads; nothing of how the numbers are made.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gllm.frontend.text_offsets import TextOffsets
from gllm.protocol.logits import Logprobs

LEAST = -9999.0  # shown for a token that cannot be: JSON has no infinity

BytesOf = Callable[[int], bytes]  # those of a token id in a text


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """At one position: first the token that is there, then the likeliest; natural logarithms.

    rank: 1 if no token is likelier than the one there.
    """

    rank: int
    token_ids: Sequence[int]
    values: Sequence[float]

    @property
    def own(self) -> float:
        return max(self.values[0], LEAST)


def read_logprobs(logprobs: Logprobs) -> Iterator[tuple[int, TokenLogprobs]]:
    """Place and entries of each position."""
    start = 0
    for place, count, rank in zip(logprobs.places, logprobs.counts, logprobs.ranks, strict=True):
        end = start + count
        yield place, TokenLogprobs(rank, logprobs.token_ids[start:end], logprobs.values[start:end])
        start = end


def chat_logprobs(positions: Sequence[TokenLogprobs], bytes_of: BytesOf) -> dict[str, Any]:
    """A choice's `logprobs` in a chat."""

    def entry(token: int, value: float) -> dict[str, Any]:
        data = bytes_of(token)
        return {"token": _text(data), "logprob": max(value, LEAST), "bytes": list(data)}

    content = []
    for position in positions:
        first, *top = map(entry, position.token_ids, position.values)
        content.append(first | {"top_logprobs": top})
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """A choice's `logprobs` in a completion, piece by piece: each goes on where the last one ended."""

    def __init__(self, bytes_of: BytesOf, offsets: TextOffsets) -> None:
        self._bytes_of = bytes_of
        self._offsets = offsets

    def piece(self, positions: Sequence[TokenLogprobs | None], token_ids: Sequence[int]) -> dict[str, Any]:
        """Of `token_ids`; None for the first token of a prompt, which nothing comes before."""
        return {
            "tokens": [_text(self._bytes_of(token)) for token in token_ids],
            "token_logprobs": [None if position is None else position.own for position in positions],
            "top_logprobs": [None if position is None else self._top(position) for position in positions],
            "text_offset": self._offsets.of(token_ids),
        }

    def _top(self, position: TokenLogprobs) -> dict[str, float]:
        """The likeliest by their texts, and the token itself. Of two that read alike the likelier stays."""
        top: dict[str, float] = {}
        for token, value in zip(position.token_ids, position.values, strict=True):
            text = _text(self._bytes_of(token))
            top[text] = max(value, LEAST, top.get(text, LEAST))
        return top


def prompt_logprobs(
    prompt: Sequence[int], positions: Mapping[int, TokenLogprobs], bytes_of: BytesOf
) -> list[dict[str, Any] | None]:
    """vLLM's form: of each prompt token an object by token id; null for the first."""

    def entries(position: TokenLogprobs) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for index, (token, value) in enumerate(zip(position.token_ids, position.values, strict=True)):
            rank = index or position.rank
            shown = {"logprob": max(value, LEAST), "rank": rank, "decoded_token": _text(bytes_of(token))}
            found.setdefault(str(token), shown)
        return found

    return [None, *(entries(positions[place]) for place in range(1, len(prompt)))]


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
