"""What must hold of an answer to a request with a feature, beside that of the same request without it.

Each fails if the field of the feature is ignored.
"""

import json
import re
from collections import Counter
from typing import Any

import jsonschema
import pytest
from client_answers import Answer

STORY = "Once upon a time"
SCHEMA = {
    "type": "object",
    "properties": {"size": {"enum": [3, 5]}, "is_new": {"type": "boolean"}},
    "required": ["size", "is_new"],
    "additionalProperties": False,
}
PATTERN = "[a-f]{3}-[0-9]{2}"
CHOICES = ["left", "straight on", "right"]
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def cut_short(got: Answer, without: Answer) -> None:
    assert (got.completion_tokens, got.reason) == (5, "length")
    assert without.completion_tokens > 5


def another_text(got: Answer, without: Answer) -> None:
    assert got.text
    assert got.text != without.text


def repeats_less(got: Answer, without: Answer) -> None:
    assert got.ids != without.ids
    assert len(set(got.ids)) >= len(set(without.ids))
    assert max(Counter(got.ids).values()) < max(Counter(without.ids).values())


def only_77(got: Answer, without: Answer) -> None:
    assert set(got.ids) == {77} != set(without.ids)


def only_allowed(got: Answer, without: Answer) -> None:
    assert set(got.ids) <= {60, 61, 62} < {60, 61, 62, *without.ids}


def without_the_word(got: Answer, without: Answer) -> None:
    assert word(without) in without.text
    assert word(without) not in got.text


def ends_before_the_stop(got: Answer, without: Answer) -> None:
    stop = middle(without)
    assert got.text == without.text[: without.text.index(stop)]
    assert (got.reason, got.choices[0].stop_reason) == ("stop", stop)


def ends_with_the_token(got: Answer, without: Answer) -> None:
    token = without.ids[3]
    assert got.ids == without.ids[: without.ids.index(token) + 1]
    assert (got.reason, got.choices[0].stop_reason) == ("stop", token)


def ends_with_the_stop(got: Answer, without: Answer) -> None:
    assert without.reason == got.reason == "stop"
    assert got.text == without.text + "e"


def goes_on(got: Answer, without: Answer) -> None:
    assert got.completion_tokens >= 9 > without.completion_tokens
    assert got.text.startswith(without.text + "e")


def goes_on_to_its_length(got: Answer, without: Answer) -> None:
    assert (without.reason, without.completion_tokens) == ("stop", 1)
    assert (got.reason, got.completion_tokens) == ("length", 4)


def shows_special_tokens(got: Answer, without: Answer) -> None:
    assert (got.text, without.text) == ("<|im_end|>" * 4, "")


def three_choices(got: Answer, without: Answer) -> None:
    assert len(without.choices) == 1
    assert len({choice.text for choice in got.choices}) == 3 == len(got.choices)
    assert got.completion_tokens == 36


def a_choice_for_each_prompt(got: Answer, without: Answer) -> None:
    assert len(got.choices) == 2
    assert got.choices[1] == without.choices[0]
    assert got.prompt_tokens > without.prompt_tokens


def log_probabilities_of_its_tokens(got: Answer, without: Answer) -> None:
    assert without.choices[0].logprobs is None
    entries = got.choices[0].logprobs
    assert entries is not None
    assert len(entries) == got.completion_tokens
    assert "".join(text for text, _, _ in entries).lstrip().startswith(got.text.lstrip())
    for _, value, top in entries:
        assert len(top) == 3
        assert value == pytest.approx(max(top.values()), abs=1e-4)  # greedy


def log_probabilities_alone(got: Answer, without: Answer) -> None:
    del without
    entries = got.choices[0].logprobs
    assert entries is not None
    assert len(entries) == got.completion_tokens
    assert all(value is not None and value <= 0 and len(top) <= 1 for _, value, top in entries)


def begins_with_its_prompt(got: Answer, without: Answer) -> None:
    assert got.text == STORY + without.text


def log_probabilities_of_its_prompt(got: Answer, without: Answer) -> None:
    (choice,), (own,) = got.choices, without.choices
    assert choice.logprobs is not None
    assert own.logprobs is not None
    assert len(choice.logprobs) == got.prompt_tokens + got.completion_tokens
    assert choice.logprobs[0][1] is None
    values = [value for _, value, _ in choice.logprobs[got.prompt_tokens :]]
    assert values == pytest.approx([value for _, value, _ in own.logprobs], abs=1e-4)
    assert choice.offsets[got.prompt_tokens :] == [len(STORY) + offset for offset in own.offsets]


def offsets_into_the_text(got: Answer, without: Answer) -> None:
    """Tokens that are not shown begin where the next one does, those within a character where it begins."""
    assert not without.choices[0].offsets
    (choice,) = got.choices
    assert choice.logprobs is not None
    shown, is_hidden = [], "<|im_end|>" not in choice.text
    for (token, _, _), start in zip(choice.logprobs, choice.offsets, strict=True):
        if "\ufffd" in token:
            assert choice.text[start] in "🐢字"
        elif not (is_hidden and token == "<|im_end|>"):
            assert choice.text.startswith(token, start)
            shown.append(token)
    assert len(shown) < len(choice.logprobs)
    assert "".join(shown) == choice.text.replace("🐢", "").replace("字", "")


def the_likeliest_of_four(got: Answer, without: Answer) -> None:
    assert len(got.choices) == 1
    assert got.completion_tokens == without.completion_tokens == 48
    means = {}
    for choice in without.choices:
        assert choice.logprobs is not None
        means[choice.text] = sum(value or 0 for _, value, _ in choice.logprobs)
    assert got.text == max(means, key=means.__getitem__)


def tells_of_its_prompt(got: Answer, without: Answer) -> None:
    assert without.prompt_logprobs is None
    assert got.prompt_logprobs is not None
    assert got.prompt_logprobs[0] is None
    assert len(got.prompt_logprobs) == got.prompt_tokens
    assert all(1 <= len(entries) <= 2 for entries in got.prompt_logprobs[1:])


def reads_three_tokens(got: Answer, without: Answer) -> None:
    assert got.prompt_tokens == 3 < without.prompt_tokens


def reads_fewer_tokens(got: Answer, without: Answer) -> None:
    assert got.prompt_tokens < without.prompt_tokens


def reads_more_tokens(got: Answer, without: Answer) -> None:
    assert got.prompt_tokens > without.prompt_tokens


def finds_nothing_cached(got: Answer, without: Answer) -> None:
    assert got.cached_tokens == 0 < without.cached_tokens
    assert got.text == without.text


def shows_its_tokens(got: Answer, without: Answer) -> None:
    assert without.choices[0].token_ids is None
    assert len(got.ids) == got.completion_tokens


def bears_its_name(got: Answer, without: Answer) -> None:
    assert got.id.endswith("-my-own.1")
    assert not without.id.endswith("-my-own.1")


def begins_an_object(got: Answer, without: Answer) -> None:
    assert got.text.lstrip().startswith("{")
    assert not without.text.lstrip().startswith("{")
    if got.reason == "stop":
        assert isinstance(json.loads(got.text), dict)


def follows_the_schema(got: Answer, without: Answer) -> None:
    del without
    jsonschema.validate(json.loads(got.text), SCHEMA)
    assert got.reason == "stop"


def follows_the_pattern(got: Answer, without: Answer) -> None:
    assert re.fullmatch(PATTERN, got.text)
    assert not re.fullmatch(PATTERN, without.text)


def is_a_choice(got: Answer, without: Answer) -> None:
    assert got.text in CHOICES
    assert without.text not in CHOICES


def follows_the_grammar(got: Answer, without: Answer) -> None:
    assert re.fullmatch("x[1-9]{2}", got.text)
    assert not re.fullmatch("x[1-9]{2}", without.text)


def calls_something(got: Answer, without: Answer) -> None:
    assert not without.choices[0].calls
    assert got.reason == "tool_calls"
    assert got.choices[0].calls
    for name, arguments in got.choices[0].calls:
        schemas: dict[str, Any] = {"order": SCHEMA, "cancel": NO_ARGUMENTS}
        jsonschema.validate(json.loads(arguments), schemas[name])


def calls_once(got: Answer, without: Answer) -> None:
    assert len(got.choices[0].calls) == 1 < len(without.choices[0].calls)
    assert got.reason == "tool_calls"


def orders(got: Answer, without: Answer) -> None:
    assert not without.choices[0].calls
    ((name, arguments),) = got.choices[0].calls
    assert name == "order"
    jsonschema.validate(json.loads(arguments), SCHEMA)


def cancels(got: Answer, without: Answer) -> None:
    assert not without.choices[0].calls
    ((name, arguments),) = got.choices[0].calls
    assert (name, json.loads(arguments)) == ("cancel", {})


def the_same_text(got: Answer, without: Answer) -> None:
    """As a filter that leaves one token has it, whatever the temperature."""
    assert got.text == without.text


def middle(answer: Answer) -> str:
    return answer.text[5:8]


def word(answer: Answer) -> str:
    return answer.text.split()[1]
