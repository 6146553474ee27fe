"""Calls of tools in text: found in each form, however the text is cut; what is no call stays text."""

import asyncio
import copy
import json
from collections.abc import AsyncGenerator
from functools import partial
from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gllm.config.schema import FrontendConfig
from gllm.frontend.families import FAMILIES
from gllm.frontend.text_output import TextDelta
from gllm.frontend.tool_calls.call import CallArguments, CallStart, Piece, ToolCall, joined
from gllm.frontend.tool_calls.forms import FORMS, Pieces, form_in_force, with_calls
from gllm.frontend.tool_calls.named_line import keyword_literals
from gllm.frontend.tool_calls.objects import ArgumentsParser, ArrayParser

NAMES = ["get_weather", "get", "add"]
PARSERS = {**FORMS, "array": ArrayParser, "arguments": ArgumentsParser}


def pieces_of(form: str, parts: list[str]) -> list[Piece]:
    """What comes out of an answer that comes in `parts`."""
    pieces = Pieces(PARSERS[form](["get"] if form == "arguments" else NAMES))
    found: list[Piece] = []
    for index, part in enumerate(parts):
        found += pieces.read(part, index == len(parts) - 1)
    assert pieces.num_calls == sum(isinstance(piece, CallStart) for piece in found)
    return found


def parsed(form: str, parts: list[str]) -> list[Any]:
    """The texts and calls of an answer that comes in `parts`."""
    return joined(pieces_of(form, parts))


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False))


def cut(name: str, arguments: str) -> ToolCall:
    return ToolCall(name, arguments, is_whole=False)


PARIS = call("get_weather", city="Paris")
ONE = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
LLAMA = '{"name": "get_weather", "parameters": {"city": "Paris"}}'
GLM3 = "get_weather\n ```python\ntool_call(city='Paris')\n```"
DEEP = '{"a": ' + "[" * 70 + "]" * 70 + "}"

EXAMPLES: list[tuple[str, str, list[Any]]] = [
    ("hermes", ONE, [PARIS]),
    ("hermes", f"Let me see.\n{ONE}\n{ONE}\n", ["Let me see.", PARIS, PARIS]),
    ("hermes", f"a {ONE} b {ONE} c", ["a", PARIS, "b", PARIS, "c"]),
    ("hermes", ONE.removesuffix("</tool_call>"), [PARIS]),
    ("hermes", ONE.removesuffix("call>"), [PARIS]),
    (
        "hermes",
        '<tool_call>{"name":"add","arguments":{"a":"</tool_call>{\\"}"}}</tool_call>',
        [ToolCall("add", '{"a":"</tool_call>{\\"}"}')],
    ),
    # In another order the call is known at its end.
    (
        "hermes",
        '<tool_call>{"arguments": {"b":[1 ,2]}, "type": "function", "name": "add"} </tool_call>!',
        [ToolCall("add", '{"b":[1 ,2]}'), "!"],
    ),
    ("hermes", '<tool_call>{"name": "g\\u0065t", "arguments": {}}</tool_call>', [call("get")]),
    (
        "hermes",
        '<tool_call>{"id": "1", "name": "get", "type": "function", "arguments" :\n{}, "id": "2"}</tool_call>',
        [call("get")],
    ),
    # What a form writes behind the arguments is not missed where it is missing, and not shown.
    ("hermes", '<tool_call>{"name": "get", "arguments": {}</tool_call> so', [call("get"), "so"]),
    (
        "hermes",
        '<tool_call>{"name": "get", "arguments": {}} and </tool_call>',
        [call("get"), "and </tool_call>"],
    ),
    (
        "hermes",
        '<tool_call>{"name": "get", "arguments": {}, "x": 1}</tool_call>',
        [call("get"), ', "x": 1}</tool_call>'],
    ),
    # From the first bracket of its arguments on it is a call, whatever they hold.
    ("hermes", ONE[: ONE.index("is")], [cut("get_weather", '{"city": "Par')]),
    ("hermes", ONE + ONE[: ONE.index('"city')], [PARIS, cut("get_weather", "{")]),
    (
        "hermes",
        '<tool_call>{"name": "get", "arguments": {"a": NaN, b: "x\ny", c: 1e999, "\\ud800"}}</tool_call>',
        [ToolCall("get", '{"a": NaN, b: "x\ny", c: 1e999, "\\ud800"}')],
    ),
    (
        "hermes",
        f'<tool_call>{{"name": "get", "arguments": {DEEP}}}</tool_call>',
        [ToolCall("get", DEEP[: 6 + 63]), DEEP[6 + 63 :] + "}</tool_call>"],
    ),
    (
        "hermes",
        '<tool_call>{"name": "get", "arguments": {"a": ]}}</tool_call>',
        [ToolCall("get", '{"a": ]'), "}</tool_call>"],
    ),
    ("llama3_json", LLAMA, [PARIS]),
    ("llama3_json", f" <|python_tag|> {LLAMA} ; {LLAMA}", [PARIS, PARIS]),
    ("llama3_json", f"{LLAMA} and more", [PARIS, "and more"]),
    ("llama3_json", LLAMA[:-1], [PARIS]),
    ("llama3_json", f"{LLAMA}; {LLAMA[:-5]}", [PARIS, cut("get_weather", '{"city": "Par')]),
    ("llama3_json", f"{LLAMA}; [1]", [PARIS, "; [1]"]),
    ("chatglm3", GLM3, [PARIS]),
    (
        "chatglm3",
        "add\n```python\ntool_call(a=[1, -2.5e3, None], b={'x': True}, c=\"it's\\n\\u4e2d\")\n```",
        [call("add", a=[1, -2500.0, None], b={"x": True}, c="it's\n中")],
    ),
    ("chatglm3", "get\n```python\ntool_call()\n```\n", [call("get")]),
    ("glm4", '\nget_weather\n{"city": "Paris"}', [PARIS]),
    ("glm4", 'get \n {"a": {"b": [1, null]}} ', [call("get", a={"b": [1, None]})]),
    ("glm4", 'get\n{"a": 1} and more', [call("get", a=1), "and more"]),
    ("glm4", 'get\n{"a": [', [cut("get", '{"a": [')]),
    ("array", f"[{LLAMA}, {LLAMA}]", [PARIS, PARIS]),
    ("array", f" [ {LLAMA} ,\n{LLAMA}\n]\n", [PARIS, PARIS]),
    ("array", f"[{LLAMA}, {LLAMA[:-5]}", [PARIS, cut("get_weather", '{"city": "Par')]),
    ("array", f"[{LLAMA}, 1]", [PARIS, ", 1]"]),
    ("arguments", ' {"city": "Paris"}\n', [call("get", city="Paris")]),
    ("arguments", '{"city": "Par', [cut("get", '{"city": "Par')]),
]


@pytest.mark.parametrize(("form", "text", "expected"), EXAMPLES)
def test_calls_are_found_in_their_form_however_the_text_is_cut(
    form: str, text: str, expected: list[Any]
) -> None:
    assert parsed(form, [text]) == expected
    assert parsed(form, [*text, ""]) == expected
    for cut in range(len(text) + 1):
        assert parsed(form, [text[:cut], text[cut:]]) == expected, cut


NO_CALLS: list[tuple[str, str]] = [
    *[(form, text) for form in FORMS
      for text in ("", " hello ", "{", "}", "get", "get\n", '{"a": 1}\n', "[1]")],
    ("hermes", "<tool_call>"),
    ("hermes", "<tool_call> not json </tool_call>"),
    ("hermes", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "get"}</tool_call>'),
    ("hermes", '<tool_call>{"name": ["get"], "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "get", "arguments": [1]}</tool_call>'),
    ("hermes", "<tool_call>" + "[" * 5000),
    ("hermes", '<tool_call>{"name": "get", "arguments"'),
    ("hermes", '<tool_call>{"name": "get", "arguments":'),
    ("hermes", '<tool_call>{"name": "get", "x": 1, "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {"a": NaN}, "name": "get"}</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {"a": 1e999}, "name": "get"}</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {"a": "\\ud800"}, "name": "get"}</tool_call>'),
    ("hermes", f'<tool_call>{{"arguments": {DEEP}, "name": "get"}}</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {"a": ' + "9" * 5000 + '}, "name": "get"}</tool_call>'),
    ("llama3_json", f"Sure: {LLAMA}"),
    ("llama3_json", '{"name": "unknown", "parameters": {}}'),
    ("chatglm3", "get_weather\n```python\n__import__('os').system('id')\n```"),
    ("chatglm3", "get_weather\n```python\ntool_call(city=open('/etc/passwd').read())\n```"),
    ("chatglm3", "get_weather\n```python\ntool_call('Paris')\n```"),
    ("chatglm3", "get_weather\n```python\ntool_call(city='Paris'"),
    ("chatglm3", "unknown\n```python\ntool_call(city='Paris')\n```"),
    ("glm4", "get_weather\nis the name of a tool"),
    ("glm4", 'get_weather {"city": "Paris"}'),
]  # fmt: skip


@pytest.mark.parametrize(("form", "text"), NO_CALLS, ids=[f"{form}-{text[:40]}" for form, text in NO_CALLS])
def test_what_is_no_call_stays_the_text_it_is(form: str, text: str) -> None:
    expected = [text] if text else []
    assert parsed(form, [text]) == expected
    assert parsed(form, [*text, ""]) == expected


fragments = st.sampled_from(
    [
        "<tool_call>", "</tool_call>", "<tool", "_call>", '{"name": "get", ', '"arguments": {}}', "{", "}",
        "[", "]", '"', "\\", ";", ",", " ", "\n", "a", "字", "get", "get_weather", "\n{}", "add\n",
        "tool_call(", ")", "```", "```python\n", "<|python_tag|>", LLAMA, ONE, GLM3, "a='x'",
    ]
)  # fmt: skip


@settings(max_examples=400)
@given(
    form=st.sampled_from(sorted(PARSERS)),
    parts=st.lists(fragments, max_size=14),
    cuts=st.lists(st.integers(0, 200), max_size=8),
)
def test_the_cuts_of_a_stream_never_show(form: str, parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    whole = parsed(form, [text])
    assert parsed(form, [*text, ""]) == whole
    at = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert parsed(form, [text[a:b] for a, b in pairwise(at)]) == whole


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text("ab'\"", max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
arguments = st.dictionaries(st.sampled_from(["a", "city", "名"]), values, max_size=3)


@given(arguments=arguments)
def test_any_arguments_come_back_from_every_form(arguments: dict[str, Any]) -> None:
    written = json.dumps(arguments, ensure_ascii=False)
    expected = [ToolCall("get", written)]
    assert parsed("hermes", [f'<tool_call>{{"name": "get", "arguments": {written}}}</tool_call>']) == expected
    assert parsed("llama3_json", [f'{{"name": "get", "parameters": {written}}}']) == expected
    assert parsed("glm4", [f"get\n{written}"]) == expected
    python = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    assert parsed("chatglm3", [f"get\n```python\ntool_call({python})\n```"]) == expected


# An object in any white space and escapes.
writers = st.sampled_from(
    [json.dumps, partial(json.dumps, ensure_ascii=False), partial(json.dumps, indent=1),
     partial(json.dumps, separators=(",", ":"))]
)  # fmt: skip
calls = st.builds(
    lambda name, values, write: ToolCall(name, write(values)), st.sampled_from(NAMES), arguments, writers
)
words = st.sampled_from(["", "Let me see.", "so {", '"', "it's 20°, 字", "</tool_call> no", "a < b\n\nc"])


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, str, list[str | ToolCall]]:
    """A form, an answer in it, and the texts and calls that it is made of."""
    form = draw(st.sampled_from(sorted(PARSERS)))
    parts: list[str | ToolCall] = []
    if form in ("glm4", "chatglm3", "arguments"):
        call = draw(calls)
        match form:
            case "glm4":
                text = f"\n{call.name}\n{call.arguments}"
            case "chatglm3":
                values = json.loads(call.arguments)
                written = ", ".join(f"{name}={value!r}" for name, value in values.items())
                text = f"{call.name}\n```python\ntool_call({written})\n```"
                call = ToolCall(call.name, json.dumps(values, ensure_ascii=False))
            case _:
                text, call = call.arguments, ToolCall("get", call.arguments)
        return form, text, [call]
    several = draw(st.lists(calls, min_size=1, max_size=3))
    if form == "hermes":
        text = draw(words)
        parts.append(text)
        for call in several:
            behind = draw(words)
            text += f'\n<tool_call>\n{{"name": "{call.name}", "arguments": {call.arguments}}}\n</tool_call>\n'
            text += behind
            parts += [call, behind]
        return form, text, [part for part in parts if part]
    objects = [f'{{"name": "{call.name}", "parameters": {call.arguments}}}' for call in several]
    if form == "array":
        return form, f"[{', '.join(objects)}]", [*several]
    behind = draw(words)
    return form, f"{'; '.join(objects)} {behind}", [part for part in [*several, behind] if part]


@settings(max_examples=150, deadline=None)
@given(answers())
def test_an_answer_cut_after_any_character_is_the_same_streamed_and_whole(
    answer: tuple[str, str, list[str | ToolCall]],
) -> None:
    form, text, expected = answer
    pieces = Pieces(PARSERS[form](["get"] if form == "arguments" else NAMES))
    shown: list[Piece] = []
    for length, character in enumerate(text):
        streamed = joined([*shown, *copy.deepcopy(pieces).read("", True)])
        assert streamed == parsed(form, [text[:length]])
        for part, full in zip(streamed, expected, strict=False):
            if isinstance(part, ToolCall):
                assert isinstance(full, ToolCall)
                assert (part.name, part.is_whole) == (full.name, part.arguments == full.arguments)
                assert full.arguments.startswith(part.arguments)
        shown += pieces.read(character, False)
    shown += pieces.read("", True)
    assert joined(shown) == expected == parsed(form, [text])


@pytest.mark.parametrize(
    "written",
    ["a", "a=", "a==1", "=1", "a=b", "a=1 b=2", "a={1}", "a=(1)", "a=f'x'", "a='", "a=1)", "*a", "a:1", "]"],
)
def test_only_keywords_with_literals_are_read(written: str) -> None:
    assert keyword_literals(written) is None


def test_every_form_can_be_chosen_and_a_family_has_its_own() -> None:
    chosen = FrontendConfig.model_fields["tool_call_parser"]
    assert {"auto", *FORMS} == set(get_args(chosen.annotation))
    forms = {family.name: form_in_force(FrontendConfig(), family) for family in FAMILIES}
    assert forms == {
        "llama3": "llama3_json", "llama2": None, "qwen2": "hermes", "qwen3": "hermes", "chatglm2": None,
        "chatglm3": "chatglm3", "glm4": "glm4",
    }  # fmt: skip
    assert form_in_force(FrontendConfig(), None) is None
    assert form_in_force(FrontendConfig(tool_call_parser="glm4"), FAMILIES[0]) == "glm4"
    assert form_in_force(FrontendConfig(auto_tool_choice=False), FAMILIES[0]) is None
    assert FrontendConfig.model_validate({"tool_call_parser": "qwen25"}).tool_call_parser == "hermes"


def test_a_long_answer_that_opens_many_calls_takes_linear_time() -> None:
    for text in ("<tool_call>{" * 20_000, '<tool_call>{"a": "' * 20_000, "<tool_call>{}x" * 20_000):
        assert parsed("hermes", [text]) == [text]
    written = json.dumps({"code": "x = {'a': [1]}\n" * 2000})
    answer = f'<tool_call>{{"name": "get", "arguments": {written}}}</tool_call>'
    assert parsed("hermes", [*answer, ""]) == [ToolCall("get", written)]
    blank = [" "] * 30_000
    for form, opening in (("hermes", "<tool_call>"), ("llama3_json", ""), ("llama3_json", "<|python_tag|>")):
        assert parsed(form, [opening, *blank, "x"]) == [opening + " " * len(blank) + "x"]


@pytest.mark.parametrize(
    ("form", "before", "behind"),
    [
        ("hermes", '<tool_call>\n{"name": "get", "arguments": ', "}\n</tool_call>"),
        ("llama3_json", '{"name": "get", "parameters": ', "}"),
        ("glm4", "get\n", ""),
        ("array", '[{"name": "get", "parameters": ', "}]"),
        ("arguments", "", ""),
    ],
)
def test_the_name_comes_first_and_every_character_of_the_arguments_when_it_is_there(
    form: str, before: str, behind: str
) -> None:
    written = '{"city": "Pa\\"}r\\\\is 巴黎", "of": [{"a": {}}, "\\u4e2d"]}'
    pieces = Pieces(PARSERS[form](["get"]))
    assert [piece for character in before for piece in pieces.read(character, False)] == []
    assert pieces.read("{", False) == [CallStart("get"), CallArguments("{")]
    for character in written[1:-1]:
        assert pieces.read(character, False) == [CallArguments(character)]
    assert pieces.is_in_call
    assert pieces.read("}", False) == [CallArguments("}", is_end=True)]
    assert not pieces.is_in_call
    assert [piece for character in behind for piece in pieces.read(character, False)] == []
    assert pieces.read("", True) == []


def test_every_output_of_a_request_has_its_own_calls_and_its_own_end() -> None:
    async def deltas() -> AsyncGenerator[TextDelta, None]:
        for text in (ONE[:20], ONE[20:], "never shown"):
            for output in (0, 1):
                yield TextDelta(text, [1], output=output)
        raise AssertionError("nobody reads on when all outputs have ended")

    async def shown() -> list[TextDelta]:
        stream = with_calls(deltas(), partial(FORMS["hermes"], NAMES), False, 2)
        return [delta async for delta in stream]

    found = asyncio.run(shown())
    for output in (0, 1):
        mine = [delta for delta in found if delta.output == output]
        assert joined(delta.call for delta in mine if delta.call is not None) == [PARIS]
        assert [delta.finish_reason for delta in mine] == [None] * (len(mine) - 1) + ["tool_calls"]
        assert not any(delta.text for delta in mine)
