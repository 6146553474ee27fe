"""Structured output offline: the same wishes, in the call forms of `LLM`."""

import json

import pytest

from gllm import LLM, SamplingParams, StructuredOutputs

SCHEMA = {
    "type": "object",
    "properties": {
        "word": {"type": "string", "maxLength": 6},
        "count": {"type": "integer", "maximum": 9, "minimum": 1},
    },
    "required": ["word", "count"],
    "additionalProperties": False,
}


def test_prompts_may_each_have_a_grammar_of_their_own(llm: LLM) -> None:
    wishes = [
        StructuredOutputs(json=SCHEMA),
        None,
        StructuredOutputs(regex="[a-d]{5}"),
        StructuredOutputs(choice=["left", "right"]),
        StructuredOutputs(grammar='root ::= "(" [0-9]{2} ")"'),
    ]
    params = [
        SamplingParams(temperature=1.0, seed=3, max_tokens=80, structured_outputs=wish) for wish in wishes
    ]
    texts = [
        result.outputs[0].text for result in llm.generate(["go on:"] * len(wishes), params, use_tqdm=False)
    ]
    found = json.loads(texts[0])
    assert 1 <= found["count"] <= 9
    assert len(found["word"]) <= 6
    assert set(texts[2]) <= set("abcd")
    assert len(texts[2]) == 5
    assert texts[3] in ("left", "right")
    assert texts[4][0] + texts[4][-1] == "()"
    again = llm.generate(["go on:"] * len(wishes), params, use_tqdm=False)
    assert [result.outputs[0].text for result in again] == texts


def test_a_conversation_is_answered_in_json(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=80, structured_outputs=StructuredOutputs(json=SCHEMA))
    messages = [{"role": "user", "content": "a word and a number"}]
    (result,) = llm.chat(messages, params, use_tqdm=False)
    assert result.outputs[0].finish_reason == "stop"
    streamed = "".join(delta.text for delta in llm.stream_chat(messages, params))
    assert streamed == result.outputs[0].text
    json.loads(streamed)


def test_a_schema_that_cannot_be_kept_to_is_a_value_error(llm: LLM) -> None:
    params = SamplingParams(structured_outputs=StructuredOutputs(json={"not": {"type": "string"}}))
    with pytest.raises(ValueError, match="'not' is not supported"):
        llm.generate("go on:", params, use_tqdm=False)
    with pytest.raises(ValueError, match="exactly one"):
        StructuredOutputs()
