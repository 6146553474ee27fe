"""The table of features: for each the fields that ask for it, and the fact that shows it."""

import inspect
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import client_facts as facts
from client_answers import Answer
from client_facts import CHOICES, NO_ARGUMENTS, PATTERN, SCHEMA, STORY
from openai.resources.chat.completions import Completions as Chats
from openai.resources.completions import Completions
from served import MODEL

EOS = "2"  # <|im_end|>
LONG = list(range(300, 380))
USER = [{"role": "user", "content": "Tell me a story."}]
BEGUN = [*USER, {"role": "assistant", "content": "Once upon a"}]
SUBJECTS: dict[str, dict[str, Any]] = {"completion": {"prompt": STORY}, "chat": {"messages": USER}}
CREATE: dict[str, Callable[..., Any]] = {"completion": Completions.create, "chat": Chats.create}
NUMBERED = itertools.count()

HOT = {"temperature": 2.0, "seed": 7}
FEW = {"allowed_token_ids": list(range(70, 90)), "max_tokens": 30, "return_token_ids": True}
ENDING = {"logit_bias": {EOS: 100}, "max_tokens": 4}
GRAMMAR = 'start: "x" NUMBER\nNUMBER: /[1-9]{2}/'
EBNF = 'root ::= "x" [1-9] [1-9]'
FUNCTION = {"name": "order", "parameters": SCHEMA}
OTHER = {"name": "cancel", "parameters": NO_ARGUMENTS}
TOOLS = [{"type": "function", "function": function} for function in (FUNCTION, OTHER)]

Fact = Callable[[Answer, Answer], None]
Fields = Mapping[str, Any] | Callable[[Answer], Mapping[str, Any]]


@dataclass(frozen=True)
class Feature:
    """`fact` compares the answer to `base` and `fields` with the one to `base` alone, of which the fields
    may be made.

    unstreamed: the field for which a stream is refused.
    """

    name: str
    api: str
    fields: Fields
    fact: Fact
    base: Mapping[str, Any] = field(default_factory=dict)
    unstreamed: str | None = None

    @property
    def title(self) -> str:
        return f"{self.api} {self.name}"

    def asked(self, without: Answer | None) -> dict[str, Any]:
        """The keyword arguments for the client; without the feature's own fields if nothing is known yet."""
        own: Mapping[str, Any] = {}
        if without is not None:
            own = self.fields(without) if callable(self.fields) else self.fields
        request = {"temperature": 0, "max_tokens": 12, **SUBJECTS[self.api], **self.base, **own}
        request = {name: value for name, value in request.items() if value is not None}
        known = inspect.signature(CREATE[self.api]).parameters
        extra = {name: request.pop(name) for name in list(request) if name not in known}
        return {"model": MODEL, **request, "extra_body": extra}


def both(name: str, fields: Fields, fact: Fact, **others: Any) -> list[Feature]:
    """A feature that both APIs have."""
    return [Feature(name, api, fields, fact, **others) for api in SUBJECTS]


FEATURES = [
    *both("max_tokens", {"max_tokens": 5}, facts.cut_short),
    Feature(
        "max_completion_tokens", "chat", {"max_tokens": None, "max_completion_tokens": 5}, facts.cut_short,
    ),
    *both("temperature", {"temperature": 2.0}, facts.another_text, base={"seed": 7}),
    *both("seed", {"seed": 8}, facts.another_text, base=HOT),
    *both("top_p", {**HOT, "top_p": 1e-6}, facts.the_same_text),
    *both("top_k", {**HOT, "top_k": 1}, facts.the_same_text),
    *both("min_p", {**HOT, "min_p": 1.0}, facts.the_same_text),
    *both("presence_penalty", {"presence_penalty": 2.0}, facts.repeats_less, base=FEW),
    *both("frequency_penalty", {"frequency_penalty": 2.0}, facts.repeats_less, base=FEW),
    *both("repetition_penalty", {"repetition_penalty": 2.0}, facts.repeats_less, base=FEW),
    *both("logit_bias", {"logit_bias": {"77": 100}}, facts.only_77, base={"return_token_ids": True}),
    *both(
        "allowed_token_ids", {"allowed_token_ids": [60, 61, 62]}, facts.only_allowed,
        base={"return_token_ids": True},
    ),
    *both("bad_words", lambda without: {"bad_words": [facts.word(without)]}, facts.without_the_word),
    *both("stop", lambda without: {"stop": [facts.middle(without)]}, facts.ends_before_the_stop),
    *both(
        "stop_token_ids", lambda without: {"stop_token_ids": [without.ids[3]]}, facts.ends_with_the_token,
        base={"return_token_ids": True},
    ),
    *both(
        "include_stop_str_in_output", {"include_stop_str_in_output": True}, facts.ends_with_the_stop,
        base={"stop": "e", "max_tokens": 30},
    ),
    *both("min_tokens", {"min_tokens": 9}, facts.goes_on, base={"stop": "e", "max_tokens": 30}),
    *both("ignore_eos", {"ignore_eos": True}, facts.goes_on_to_its_length, base=ENDING),
    *both(
        "skip_special_tokens", {"skip_special_tokens": False}, facts.shows_special_tokens,
        base={**ENDING, "ignore_eos": True},
    ),
    *both("n", {"n": 3}, facts.three_choices, base={**HOT, "ignore_eos": True}),
    Feature("several prompts", "completion", {"prompt": ["One day", STORY]}, facts.a_choice_for_each_prompt),
    Feature("logprobs", "completion", {"logprobs": 3}, facts.log_probabilities_of_its_tokens),
    Feature(
        "top_logprobs", "chat", {"logprobs": True, "top_logprobs": 3},
        facts.log_probabilities_of_its_tokens,
    ),
    Feature("logprobs of tokens alone", "completion", {"logprobs": 0}, facts.log_probabilities_alone),
    Feature("logprobs", "chat", {"logprobs": True}, facts.log_probabilities_alone),
    Feature("echo", "completion", {"echo": True}, facts.begins_with_its_prompt),
    Feature(
        "echo and logprobs", "completion", {"echo": True}, facts.log_probabilities_of_its_prompt,
        {"logprobs": 1},
    ),
    Feature(
        "offsets behind hidden tokens", "completion", {"logprobs": 0}, facts.offsets_into_the_text,
        {"allowed_token_ids": [2, 77, 78], "frequency_penalty": 2.0, "ignore_eos": True},
    ),
    Feature(
        "offsets behind an echo", "completion", {"logprobs": 0}, facts.offsets_into_the_text,
        {"prompt": "<|im_end|>A 🐢 and 字.<|im_end|>\n", "echo": True, "allowed_token_ids": [77, 78]},
    ),
    Feature(
        "best_of", "completion", {"n": 1, "best_of": 4}, facts.the_likeliest_of_four,
        {**HOT, "n": 4, "ignore_eos": True, "logprobs": 0}, "best_of",
    ),
    *both("prompt_logprobs", {"prompt_logprobs": 1}, facts.tells_of_its_prompt, unstreamed="prompt_logprobs"),
    *both("truncate_prompt_tokens", {"truncate_prompt_tokens": 3}, facts.reads_three_tokens),
    Feature(
        "cache_salt", "completion", lambda _: {"cache_salt": f"salt {next(NUMBERED)}"},
        facts.finds_nothing_cached, {"prompt": LONG},
    ),
    *both("return_token_ids", {"return_token_ids": True}, facts.shows_its_tokens),
    *both("request_id", {"request_id": "my-own.1"}, facts.bears_its_name),
    Feature("add_generation_prompt", "chat", {"add_generation_prompt": False}, facts.reads_fewer_tokens),
    Feature(
        "continue_final_message", "chat", {"add_generation_prompt": False, "continue_final_message": True},
        facts.reads_fewer_tokens, {"messages": BEGUN},
    ),
    Feature(
        "chat_template_kwargs", "chat", {"chat_template_kwargs": {"terse": True}}, facts.reads_more_tokens,
    ),
    *both(
        "response_format json_object", {"response_format": {"type": "json_object"}}, facts.begins_an_object,
    ),
    *both(
        "response_format json_schema",
        {"response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}},
        facts.follows_the_schema, base={"max_tokens": 80},
    ),
    *both(
        "structured_outputs json", {"structured_outputs": {"json": SCHEMA}}, facts.follows_the_schema,
        base={"max_tokens": 80},
    ),
    *both("structured_outputs regex", {"structured_outputs": {"regex": PATTERN}}, facts.follows_the_pattern),
    *both("structured_outputs choice", {"structured_outputs": {"choice": CHOICES}}, facts.is_a_choice),
    *both(
        "structured_outputs grammar", {"structured_outputs": {"grammar": GRAMMAR}}, facts.follows_the_grammar,
    ),
    *both("guided_json", {"guided_json": SCHEMA}, facts.follows_the_schema, base={"max_tokens": 80}),
    *both("guided_regex", {"guided_regex": PATTERN}, facts.follows_the_pattern),
    *both("guided_choice", {"guided_choice": CHOICES}, facts.is_a_choice),
    *both("guided_grammar", {"guided_grammar": GRAMMAR}, facts.follows_the_grammar),
    *both(
        "json_schema", {"json_schema": json.dumps(SCHEMA)}, facts.follows_the_schema, base={"max_tokens": 80},
    ),
    *both("regex", {"regex": PATTERN}, facts.follows_the_pattern),
    *both("ebnf", {"ebnf": EBNF}, facts.follows_the_grammar),
    Feature("tools", "chat", {"tools": TOOLS}, facts.reads_more_tokens),
    Feature("tool_choice none", "chat", {"tool_choice": "none"}, facts.reads_fewer_tokens, {"tools": TOOLS}),
    Feature(
        "tool_choice required", "chat", {"tool_choice": "required"}, facts.calls_something,
        {"tools": TOOLS, "max_tokens": 400},
    ),
    Feature(
        "tool_choice order", "chat",
        {"tool_choice": {"type": "function", "function": {"name": "order"}}}, facts.orders,
        {"tools": TOOLS, "max_tokens": 80},
    ),
    Feature(
        "tool_choice cancel", "chat",
        {"tool_choice": {"type": "function", "function": {"name": "cancel"}}}, facts.cancels,
        {"tools": TOOLS, "max_tokens": 80},
    ),
    Feature(
        "parallel_tool_calls", "chat", {"parallel_tool_calls": False}, facts.calls_once,
        {"tools": TOOLS, "tool_choice": "required", "max_tokens": 400},
    ),
]  # fmt: skip
