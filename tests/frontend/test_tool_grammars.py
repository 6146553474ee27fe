"""Grammars of calls: they allow what the form's parser reads as calls by their schemas, and other text."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gllm.frontend.params import ParameterError
from gllm.frontend.structured.grammar import Grammars
from gllm.frontend.structured.wish import StructuredOutputs
from gllm.frontend.tokenizer import Tokenizer
from gllm.frontend.tool_calls.call import CallStart, joined
from gllm.frontend.tool_calls.demanded import demanded, parser_of_demanded
from gllm.frontend.tool_calls.forms import FORMS
from gllm.frontend.tool_calls.strict import GRAMMARS, strict
from gllm.frontend.tools import tool_use

DEMO = Path(__file__).resolve().parent.parent.parent / "demo" / "model"
CITY = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/name"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"name": {"type": "string", "maxLength": 8}},
}
TREE = {
    "type": "object",
    "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}},
    "additionalProperties": False,
}


def tool(name: str, parameters: Any, is_strict: bool | None = None) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": is_strict}}


TOOLS = [tool("get_weather", CITY, True), tool("tree.v2", TREE, True), tool("now", None)]
PARIS = '{"city": "Paris"}'


@pytest.fixture(scope="module")
def demo() -> Tokenizer:
    return Tokenizer.load(DEMO)


@pytest.fixture(scope="module")
def grammars(demo: Tokenizer) -> Any:
    made = Grammars(demo, [2], demo.vocab_size)
    yield made
    made.close()


def allows(grammars: Grammars, demo: Tokenizer, wish: StructuredOutputs, text: str) -> bool:
    """Whether the whole text, token by token, and its end are allowed."""
    matcher = asyncio.run(grammars.compile(wish)).matcher()
    mask = matcher.mask()
    for token in [*demo.encode_literally(text), 2]:
        if not mask[token // 8] >> token % 8 & 1:
            return False
        if token != 2:
            mask = matcher.advance(token)
    return True


REQUIRED: list[tuple[str, bool]] = [
    (f'[{{"name": "get_weather", "parameters": {PARIS}}}]', True),
    (
        '[{"name": "tree.v2", "parameters": {"kids": [{"kids": []}]}}, {"name": "now", "parameters": {}}]',
        True,
    ),
    ("[]", False),
    ('[{"name": "other", "parameters": {}}]', False),
    ('[{"name": "get_weather", "parameters": {"city": 1}}]', False),
    ('[{"name": "get_weather", "parameters": {"city": "too long a name"}}]', False),
    ('[{"name": "tree.v2", "parameters": {"kids": [{"x": []}]}}]', False),
    ("hello", False),
]


@pytest.mark.parametrize(("text", "is_allowed"), REQUIRED)
def test_a_required_call_is_an_array_of_calls_by_their_schemas(
    grammars: Grammars, demo: Tokenizer, text: str, is_allowed: bool
) -> None:
    use = tool_use(TOOLS, "required", None)
    wish = demanded(use)
    assert wish is not None
    assert allows(grammars, demo, wish, text) is is_allowed
    if is_allowed:
        parser = parser_of_demanded(use)()
        assert not any(isinstance(part, str) for part in joined([*parser.feed(text), *parser.finish()]))


def test_without_parallel_calls_one_is_required(grammars: Grammars, demo: Tokenizer) -> None:
    wish = demanded(tool_use(TOOLS, "required", False))
    assert wish is not None
    one = '{"name": "now", "parameters": {}}'
    assert allows(grammars, demo, wish, f"[{one}]")
    assert not allows(grammars, demo, wish, f"[{one}, {one}]")


@pytest.mark.parametrize(
    ("name", "text", "is_allowed"),
    [
        ("get_weather", PARIS, True),
        ("get_weather", "{}", False),
        ("get_weather", "[1]", False),
        ("tree.v2", '{"kids": [{}]}', True),
        ("tree.v2", PARIS, False),
        ("now", "{}", True),
        ("now", PARIS, False),
    ],
)
def test_a_named_function_gets_its_arguments(
    grammars: Grammars, demo: Tokenizer, name: str, text: str, is_allowed: bool
) -> None:
    wish = demanded(tool_use(TOOLS, {"type": "function", "function": {"name": name}}, None))
    assert wish is not None
    assert allows(grammars, demo, wish, text) is is_allowed


CALL = f'{{"name": "get_weather", "arguments": {PARIS}}}'
LLAMA = f'{{"name": "get_weather", "parameters": {PARIS}}}'
STRICT: list[tuple[str, str, bool]] = [
    *[
        (form, text, True)
        for form in GRAMMARS
        for text in ("", "hello", "a < b\n\nc", "get_weath", "It is {1}.")
    ],
    ("hermes", f"<tool_call>\n{CALL}\n</tool_call>", True),
    ("hermes", f"I look.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call> Well?", True),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"any": 1}}</tool_call>', True),
    ("hermes", "text with <tool_cal", True),
    ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": {"town": 1}}\n</tool_call>', False),
    ("hermes", '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>', False),
    ("hermes", "I say <tool_call> just so", False),
    ("llama3_json", LLAMA, True),
    ("llama3_json", f"{LLAMA}; {LLAMA}", True),
    ("llama3_json", '{"name": "get_weather", "parameters": {}}', False),
    ("llama3_json", '{"a": 1}', False),
    ("glm4", f"get_weather\n{PARIS}", True),
    ("glm4", "tree.v2\n{}", True),
    ("glm4", "treeXv2\nis a text", True),
    ("glm4", 'get_weather\n{"town": 1}', False),
    ("glm4", "get_weather\nis a name", False),
]


@pytest.mark.parametrize(("form", "text", "is_allowed"), STRICT)
def test_strict_tools_leave_text_free_and_hold_calls_to_their_schemas(
    grammars: Grammars, demo: Tokenizer, form: str, text: str, is_allowed: bool
) -> None:
    wish = strict(tool_use(TOOLS, "auto", None), form)
    assert wish is not None
    assert allows(grammars, demo, wish, text) is is_allowed
    if is_allowed and "{" in text and "{1}" not in text:
        parser = FORMS[form](["get_weather", "tree.v2", "now"])
        assert any(isinstance(piece, CallStart) for piece in [*parser.feed(text), *parser.finish()])


def test_nothing_is_limited_where_no_tool_is_strict_and_no_call_demanded() -> None:
    use = tool_use([tool("now", None), tool("tree", TREE, False)], "auto", None)
    assert (demanded(use), strict(use, "hermes")) == (None, None)


def test_strict_is_refused_for_a_form_that_is_not_json() -> None:
    with pytest.raises(ParameterError, match="demands a call") as refusal:
        strict(tool_use([tool("then", None), *TOOLS], None, None), "chatglm3")
    assert refusal.value.param == "tools[1].function.strict"
