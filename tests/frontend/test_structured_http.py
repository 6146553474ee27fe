"""Structured output over HTTP: every field that asks for it, its mistakes, and the masks that follow."""

import time
from typing import Any

import pytest
from http_server import Deployment
from test_http_errors import check

YES_OR_NO = {"enum": ["yes", "no"]}
FIELDS: list[dict[str, Any]] = [
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": YES_OR_NO}}},
    {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "description": "y", "schema": YES_OR_NO, "strict": True},
        }
    },
    {"structured_outputs": {"json": YES_OR_NO, "whitespace_pattern": None, "disable_fallback": True}},
    {"structured_outputs": {"json": '{"enum": ["yes", "no"]}'}},
    {"structured_outputs": {"regex": '"(yes|no)"'}},
    {"structured_outputs": {"choice": ['"yes"', '"no"']}},
    {"structured_outputs": {"grammar": 'start: "\\"yes\\"" | "\\"no\\""'}},
    {"guided_json": YES_OR_NO},
    {"guided_json": '{"enum": ["yes", "no"]}', "guided_decoding_backend": "auto"},
    {"guided_regex": '"(yes|no)"'},
    {"guided_choice": ['"yes"', '"no"']},
    {"guided_grammar": 'root ::= "\\"" ("yes" | "no") "\\""'},
    {"json_schema": '{"enum": ["yes", "no"]}'},
    {"regex": '"(yes|no)"'},
    {"ebnf": 'root ::= "\\"" ("yes" | "no") "\\""'},
]  # fmt: skip


@pytest.mark.parametrize("fields", FIELDS, ids=range(len(FIELDS)))
@pytest.mark.parametrize("ask", ["complete", "chat"])
def test_every_field_sends_a_mask_before_each_token(
    server: Deployment, ask: str, fields: dict[str, Any]
) -> None:
    server.answers('"yes"')
    response = getattr(server, ask)(**fields, max_tokens=20)
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert (choice.get("text") or choice["message"]["content"]) == '"yes"'
    (submit,) = server.scheduler.submits
    assert submit.is_constrained
    generated = [*server.tokenizer.encode('"yes"'), server.tokenizer.special_id("<|im_end|>")]
    for place, (mask, token) in enumerate(zip(server.scheduler.masks, generated, strict=True)):
        assert (mask.request_id, mask.output, mask.num_generated) == (submit.request_id, 0, place)
        assert int.from_bytes(mask.bits, "little") >> token & 1


def test_text_asks_for_nothing(server: Deployment) -> None:
    server.answers("whatever")
    assert server.chat(response_format={"type": "text"}).status_code == 200
    assert server.chat(response_format=None, structured_outputs=None).status_code == 200
    assert not any(submit.is_constrained for submit in server.scheduler.submits)
    assert not server.scheduler.masks


SCHEMA = "response_format.json_schema.schema"
VLLM = "structured_outputs"
UNSUPPORTED, UNKNOWN = "unsupported_parameter", "unknown_parameter"
WRONG: list[tuple[dict[str, Any], str, str | None]] = [
    ({"response_format": "json"}, "response_format", None),
    ({"response_format": {}}, "response_format", None),
    ({"response_format": {"type": "xml"}}, "response_format.type", UNSUPPORTED),
    ({"response_format": {"type": "structural_tag"}}, "response_format.type", UNSUPPORTED),
    ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema", UNKNOWN),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", None),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, SCHEMA, None),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": 3, "schema": {}}}},
        "response_format.json_schema.name",
        None,
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
        f"{SCHEMA}.not",
        UNSUPPORTED,
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "x"}}}},
        SCHEMA,
        None,
    ),
    ({"structured_outputs": []}, "structured_outputs", None),
    ({"structured_outputs": {}}, "structured_outputs", None),
    ({"structured_outputs": {"jsn": {}}}, "structured_outputs.jsn", UNKNOWN),
    ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs", None),
    ({"structured_outputs": {"regex": 3}}, "structured_outputs.regex", None),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", None),
    ({VLLM: {"regex": "a", "whitespace_pattern": " "}}, VLLM + ".whitespace_pattern", UNSUPPORTED),
    ({"structured_outputs": {"structural_tag": "{}"}}, VLLM + ".structural_tag", UNSUPPORTED),
    ({VLLM: {"json": {}, "disable_any_whitespace": 1}}, VLLM + ".disable_any_whitespace", None),
    ({"guided_json": 3}, "guided_json", None),
    ({"guided_json": "{"}, "guided_json", None),
    ({"guided_choice": "yes"}, "guided_choice", None),
    ({"guided_grammar": "@@"}, "guided_grammar", None),
    ({"guided_regex": "a", "guided_decoding_backend": "outlines"}, "guided_decoding_backend", UNSUPPORTED),
    ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern", UNSUPPORTED),
    ({"guided_regex": "a", "regex": "b"}, "regex", None),
    ({"response_format": {"type": "json_object"}, "guided_choice": ["a"]}, "guided_choice", None),
    ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos", None),
    ({"ebnf": "x" * 70_000}, "ebnf", None),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "code"), WRONG, ids=range(len(WRONG)))
def test_mistakes_are_told_by_field_before_anything_is_generated(
    server: Deployment, fields: dict[str, Any], param: str, code: str | None
) -> None:
    for stream in (False, True):
        check(server.chat(**fields, stream=stream), 400, param, code)
        check(server.complete(**fields, stream=stream), 400, param, code)
    assert not server.scheduler.submits


def test_a_client_that_leaves_takes_its_grammar_with_it(server: Deployment) -> None:
    (letter,) = server.tokenizer.encode("a")
    server.scheduler.script = lambda _submit: [letter] * 3
    body = {"model": "tiny", "prompt": "hello", "regex": "a{100}", "stream": True, "max_tokens": 100}
    with server.http.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200
        next(response.iter_lines())
    deadline = time.monotonic() + 60
    while not server.scheduler.cancelled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.scheduler.cancelled == [server.scheduler.submits[0].request_id]


def test_a_grammar_that_can_no_longer_be_followed_ends_its_request_alone(server: Deployment) -> None:
    (odd,) = server.tokenizer.encode("z")
    server.scheduler.script = lambda _submit: [odd]
    check(server.complete(guided_regex="a{100}", max_tokens=3), 400, "guided_regex")
    deadline = time.monotonic() + 60
    while not server.scheduler.cancelled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.scheduler.cancelled == [server.scheduler.submits[-1].request_id]
