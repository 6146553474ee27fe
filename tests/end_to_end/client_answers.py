"""What the answers of OpenAI's clients say, in one form for both APIs, streamed and not.

Knows the shapes of answers; nothing of what was asked.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass
class Choice:
    """calls: name and arguments of each. logprobs: text, log-probability and likeliest ones of each token."""

    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    logprobs: list[tuple[str, float | None, dict[str, float]]] | None = None
    offsets: list[int] = field(default_factory=list)

    def add_logprobs(self, told: Any) -> None:
        """Those of a piece, in the form of either API."""
        if told is None:
            return
        self.logprobs = [] if self.logprobs is None else self.logprobs
        if hasattr(told, "content"):
            for item in told.content or ():
                top = {bytes(one.bytes).decode("latin-1"): one.logprob for one in item.top_logprobs}
                self.logprobs.append((item.token, item.logprob, top))
            return
        tops = [top or {} for top in told.top_logprobs]
        self.logprobs += zip(told.tokens, told.token_logprobs, tops, strict=True)
        self.offsets += told.text_offset


@dataclass
class Answer:
    """prompt_logprobs: one entry for each token of the prompt."""

    id: str
    choices: list[Choice]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    prompt_logprobs: list[Any] | None = None

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def ids(self) -> list[int]:
        ids = self.choices[0].token_ids
        assert ids is not None
        return ids

    @property
    def reason(self) -> str | None:
        return self.choices[0].finish_reason


def whole(api: str, answer: Any) -> Answer:
    """What an answer that was not streamed says."""
    choices = []
    for given in answer.choices:
        text = given.text if api == "completion" else given.message.content or ""
        calls = () if api == "completion" else given.message.tool_calls or ()
        choice = Choice(text, [(call.function.name, call.function.arguments) for call in calls])
        choice.finish_reason, choice.stop_reason = given.finish_reason, given.stop_reason
        choice.token_ids = getattr(given, "token_ids", None)
        choice.add_logprobs(given.logprobs)
        choices.append(choice)
    holder = answer.choices[0] if api == "completion" else answer
    return _answer(answer.id, choices, answer.usage, getattr(holder, "prompt_logprobs", None))


def joined(api: str, chunks: Sequence[Any]) -> Answer:
    """What a stream says."""
    choices: dict[int, Choice] = {}
    for given in itertools.chain.from_iterable(chunk.choices for chunk in chunks):
        choice = choices.setdefault(given.index, Choice())
        assert choice.finish_reason is None, "nothing follows the end"
        choice.text += given.text if api == "completion" else given.delta.content or ""
        for call in () if api == "completion" else given.delta.tool_calls or ():
            if call.index == len(choice.calls):
                assert (call.type, call.function.arguments) == ("function", "")
                choice.calls.append((call.function.name, ""))
            else:
                assert call.index == len(choice.calls) - 1
                assert (call.id, call.type, call.function.name) == (None, None, None)
                name, arguments = choice.calls[-1]
                choice.calls[-1] = name, arguments + call.function.arguments
        choice.finish_reason = given.finish_reason
        choice.stop_reason = getattr(given, "stop_reason", None)
        if (ids := getattr(given, "token_ids", None)) is not None:
            choice.token_ids = [*(choice.token_ids or ()), *ids]
        choice.add_logprobs(given.logprobs)
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    in_order = [choices[index] for index in range(len(choices))]
    return _answer(chunks[0].id, in_order, chunks[-1].usage, None)


def _answer(name: str, choices: list[Choice], usage: Any, prompt_logprobs: Any) -> Answer:
    cached = usage.prompt_tokens_details.cached_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    return Answer(name, choices, usage.prompt_tokens, usage.completion_tokens, cached, prompt_logprobs)


def assert_same(one: Answer, other: Answer) -> None:
    assert (one.prompt_tokens, one.completion_tokens) == (other.prompt_tokens, other.completion_tokens)
    assert len(one.choices) == len(other.choices)
    for left, right in zip(one.choices, other.choices, strict=True):
        assert (left.text, left.calls, left.token_ids) == (right.text, right.calls, right.token_ids)
        assert (left.finish_reason, left.stop_reason) == (right.finish_reason, right.stop_reason)
        assert left.offsets == right.offsets
        assert (left.logprobs is None) == (right.logprobs is None)
        for (text, value, top), (its_text, its_value, its_top) in zip(
            left.logprobs or (), right.logprobs or (), strict=True
        ):
            assert (text, top.keys()) == (its_text, its_top.keys())
            assert value == pytest.approx(its_value, abs=1e-4)
            assert top == pytest.approx(its_top, abs=1e-4)
