"""What a grammar allows: texts of every vocabulary, their end, and nothing else."""

import asyncio
import json
import random
import re
import threading
from collections.abc import Coroutine
from typing import Any

import checkpoint_tokenizers
import pytest
from tiny_tokenizers import byte_fallback_backend, byte_level_backend, made

from gllm.frontend.params import ParameterError, SamplingParams
from gllm.frontend.structured import grammar as grammar_module
from gllm.frontend.structured.grammar import Grammar, Grammars, GrammarTooComplex
from gllm.frontend.structured.wish import StructuredOutputs
from gllm.frontend.tokenizer import Tokenizer

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "größe": {"type": "integer", "minimum": 0}},
    "required": ["name", "größe"],
    "additionalProperties": False,
}
MODEL_ROWS = 40  # that no token has


def run(coroutine: Coroutine[Any, Any, Grammar]) -> Grammar:
    return asyncio.run(coroutine)


def ends_of(tokenizer: Tokenizer) -> list[int]:
    named = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return list(dict.fromkeys([*named, *tokenizer.family_stop_ids]))


def grammars_of(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer, ends_of(tokenizer), tokenizer.vocab_size + MODEL_ROWS)


def allowed(mask: bytes) -> list[int]:
    bits = int.from_bytes(mask, "little")
    return [token for token in range(8 * len(mask)) if bits >> token & 1]


def walk(grammar: Grammar, tokenizer: Tokenizer, seed: int, most: int = 300) -> str:
    """A text that the grammar allows, by tokens drawn at random, with every mask on the way checked."""
    draw = random.Random(seed)
    ends = set(ends_of(tokenizer))
    constraint = grammar.constraint(1)
    mask, ids = constraint.first_mask, []
    while True:
        tokens = set(allowed(mask))
        assert tokens
        assert max(tokens) < tokenizer.vocab_size
        assert len(mask) == 4 * -(-(tokenizer.vocab_size + MODEL_ROWS) // 32)
        assert not tokens & tokenizer.special_token_ids - ends
        assert all(tokenizer.pieces()[token] for token in tokens - ends)
        if tokens & ends:
            assert ends <= tokens  # wherever the text may end, any of them ends it
            if tokens == ends or draw.random() < 0.3:
                return tokenizer.decode(ids)
        assert len(ids) < most, tokenizer.decode(ids)
        ids.append(draw.choice(sorted(tokens - ends)))
        mask = constraint.mask_after(0, ids[-1])


def walk_again_and_again(grammar: Grammar, tokenizer: Tokenizer) -> None:
    for seed in range(100):
        walk(grammar, tokenizer, seed, most=10_000)


TOKENIZERS = ["byte level", "byte fallback", "llama2", "llama3", "chatglm3", "glm4"]


@pytest.fixture(scope="module")
def tokenizers_by_name(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    found = {
        "byte level": made(byte_level_backend(), {"eos_token": "<|im_end|>"}, {}),
        "byte fallback": made(byte_fallback_backend(), {"eos_token": "</s>"}, {}),
    }
    root = tmp_path_factory.mktemp("structured")
    for family in ("llama2", "llama3", "chatglm3", "glm4"):
        found[family] = Tokenizer.load(checkpoint_tokenizers.write(root / family, family))
    return found


@pytest.fixture
def tokenizer(tokenizers_by_name: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers_by_name["byte level"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_kind_of_vocabulary_writes_what_the_grammar_says(
    tokenizers_by_name: dict[str, Tokenizer], name: str
) -> None:
    tokenizer = tokenizers_by_name[name]
    grammars = grammars_of(tokenizer)
    regex = run(grammars.compile(StructuredOutputs(regex="[a-f]{3}-(日本|ü+)!")))
    choice = run(grammars.compile(StructuredOutputs(choice=["one", "two words", "😀 und ß", '"q"\\'])))
    lark = run(grammars.compile(StructuredOutputs(grammar='start: "ab" x+\nx: "c" | "é"')))
    schema = run(grammars.compile(StructuredOutputs(json=PERSON)))
    for seed in range(3):
        assert re.fullmatch("[a-f]{3}-(日本|ü+)!", walk(regex, tokenizer, seed))
        assert walk(choice, tokenizer, seed) in ("one", "two words", "😀 und ß", '"q"\\')
        assert re.fullmatch("ab[cé]+", walk(lark, tokenizer, seed))
        found = json.loads(walk(schema, tokenizer, seed))
        assert list(found) == ["name", "größe"]
        assert len(found["name"]) <= 9
        assert found["größe"] >= 0


def test_the_texts_of_special_tokens_are_written_by_other_tokens(tokenizer: Tokenizer) -> None:
    grammar = run(grammars_of(tokenizer).compile(StructuredOutputs(choice=["a<|im_start|>b<|im_end|>"])))
    assert walk(grammar, tokenizer, 0) == "a<|im_start|>b<|im_end|>"


def test_both_forms_of_ebnf_and_embedded_schemas_are_grammars(tokenizer: Tokenizer) -> None:
    grammars = grammars_of(tokenizer)
    gbnf = run(grammars.compile(StructuredOutputs(grammar='root ::= "x" [0-9]+ ("," [0-9])*')))
    assert re.fullmatch("x[0-9]+(,[0-9])*", walk(gbnf, tokenizer, 1))
    lark = run(grammars.compile(StructuredOutputs(grammar='start: "v=" v\nv: %json {"enum": [1, "one"]}')))
    assert walk(lark, tokenizer, 0) in ("v=1", 'v="one"')


def test_json_has_no_endless_white_space_and_none_at_all_if_asked(tokenizer: Tokenizer) -> None:
    grammars = grammars_of(tokenizer)
    for seed in range(5):
        text = walk(run(grammars.compile(StructuredOutputs(json=PERSON))), tokenizer, seed)
        outside = re.sub(r'"(\\.|[^"\\])*"', '""', text)
        assert not re.search(r"\n[ \t]{41}|  (?<!\n  )\n|\n\n", outside)
        compact = StructuredOutputs(json={"enum": [[1, {"a": 2}]]}, disable_any_whitespace=True)
        assert walk(run(grammars.compile(compact)), tokenizer, seed) == '[1,{"a":2}]'


def test_any_object_is_an_object(tokenizer: Tokenizer) -> None:
    grammar = run(grammars_of(tokenizer).compile(StructuredOutputs(json_object=True)))
    first = {tokenizer.decode([token]) for token in allowed(grammar.first_mask)}
    assert first
    assert all(text.startswith("{") for text in first)


def test_the_same_wish_is_compiled_once_and_every_output_goes_its_own_way(tokenizer: Tokenizer) -> None:
    grammars = grammars_of(tokenizer)
    grammar = run(grammars.compile(StructuredOutputs(choice=["ab", "cd"])))
    assert run(grammars.compile(StructuredOutputs(choice=["ab", "cd"]))) is grammar
    assert run(grammars.compile(StructuredOutputs(choice=["ab", "cd"], param="guided_choice"))) is not grammar
    constraint = grammar.constraint(2)
    (a,), (c,) = tokenizer.encode("a"), tokenizer.encode("c")
    after_a = constraint.mask_after(0, a)
    after_c = constraint.mask_after(1, c)
    assert allowed(after_a) == tokenizer.encode("b")
    assert allowed(after_c) == tokenizer.encode("d")
    assert allowed(grammar.constraint(1).first_mask) == allowed(constraint.first_mask)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"json": {"type": "string", "minLenght": 3}}, ".json.minLenght", "did you mean minLength"),
    ({"json": {"properties": {"a": {"not": {}}}}}, ".json.properties.a.not", "'not'"),
    ({"json": {"type": "array", "uniqueItems": True}}, ".json.uniqueItems", "uniqueItems"),
    ({"json": {"anyOf": [{}, {"if": {}}]}}, ".json.anyOf[1].if", "'if'"),
    ({"json": {"type": "string", "format": "fancy"}}, ".json.format", "must be one of"),
    ({"json": {"type": "string", "nullable": True}}, ".json.nullable", '"null"'),
    ({"json": {"x-guidance": {"lenient": True}}}, ".json.x-guidance", "x-guidance"),
    ({"json": {"$ref": "https://example.com/a.json"}}, ".json.$ref", "into the schema itself"),
    ({"json": {"$ref": "file:///etc/passwd"}}, ".json.$ref", "into the schema itself"),
    ({"json": {"$ref": "#/$defs/x"}}, ".json.$ref", "not there"),
    ({"json": {"exclusiveMinimum": 5, "maximum": 5.5}}, ".json.exclusiveMinimum", "less than 1"),
    ({"json": {"exclusiveMaximum": 0, "minimum": -0.5}}, ".json.exclusiveMaximum", "less than 1"),
    ({"json": {"minimum": "1"}}, ".json.minimum", "a number"),
    ({"json": {"exclusiveMinimum": True}}, ".json.exclusiveMinimum", "a number"),
    ({"json": {"enum": []}}, ".json.enum", "not empty"),
    ({"json": {"properties": []}}, ".json.properties", "an object"),
    ({"json": {"items": 3}}, ".json.items", "a JSON schema"),
    ({"json": {"type": "foo"}}, ".json", "foo"),
    ({"json": {"type": "integer", "minimum": 3, "maximum": 2}}, ".json", "grammar"),
    ({"json": False}, ".json", "no JSON schema"),
    ({"json": "{"}, ".json", "not one of JSON"),
    ({"json": "[]"}, ".json", "a JSON schema"),
    ({"json": {"type": "string", "pattern": "(?=a)b"}}, ".json", "look-around"),
    ({"json": {"type": "string", "pattern": "["}}, ".json", "grammar"),
    ({"json": {"enum": ["x" * 70_000]}}, ".json", "at most 65536"),
    ({"regex": "(a"}, ".regex", "grammar"),
    ({"regex": "(a)\\1"}, ".regex", "backreferences"),
    ({"regex": ""}, ".regex", "not empty"),
    ({"regex": "x" * 70_000}, ".regex", "at most 65536"),
    ({"choice": []}, ".choice", "at least one"),
    ({"choice": "yes"}, ".choice", "a list of strings"),
    ({"choice": ["a", ""]}, ".choice", "not empty"),
    ({"choice": ["a", 1]}, ".choice", "must be a string"),
    ({"choice": [str(n) for n in range(5000)]}, ".choice", "at most 4096"),
    ({"grammar": "what @@"}, ".grammar", "grammar"),
    ({"grammar": 'root ::= ("a"'}, ".grammar", "grammar"),
    ({"grammar": 'root ::= ' + '("a" | ' * 8000}, ".grammar", "grammar"),
    ({"grammar": "start: <|im_start|>"}, ".grammar", "<|...|>"),
    ({"grammar": "start: <[3]>"}, ".grammar", "<[...]>"),
    ({"grammar": "start: x\nx[temperature=0.5]: /a/"}, ".grammar", "temperature"),
    ({"grammar": '%llguidance {"allow_invalid_utf8": true}\nstart: "a"'}, ".grammar", "%llguidance"),
    ({"grammar": 'start: %json {"not": {}}'}, ".grammar.not", "'not'"),
    ({"grammar": "start: %json nonsense"}, ".grammar", "%json"),
    ({"json": None}, "", "exactly one"),
    ({"json_object": False}, "", "exactly one"),
    ({"json_object": True, "regex": "a"}, "", "json_object"),
]  # fmt: skip


@pytest.mark.parametrize(("wish", "param", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_kept_to_is_refused_by_name(
    tokenizer: Tokenizer, wish: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(ParameterError) as refused:
        run(grammars_of(tokenizer).compile(StructuredOutputs(**wish)))
    assert refused.value.param == f"structured_outputs{param}"
    assert words in str(refused.value)
    assert len(str(refused.value)) < 500


def test_schemas_nested_too_deep_are_refused(tokenizer: Tokenizer) -> None:
    schema: Any = {"type": "integer"}
    for _ in range(70):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ParameterError, match="more than 64 deep"):
        run(grammars_of(tokenizer).compile(StructuredOutputs(json=schema)))


def test_a_grammar_that_takes_too_long_is_refused(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammars = grammars_of(tokenizer)
    monkeypatch.setattr(grammar_module, "COMPILE_TIMEOUT_S", 1.0)
    real = grammar_module._source

    has_been_refused = threading.Event()

    def slow(wish: StructuredOutputs) -> str:
        assert wish.regex == "b" or has_been_refused.wait(60)
        return real(wish)

    monkeypatch.setattr(grammar_module, "_source", slow)

    async def both() -> tuple[Any, Any]:
        first, second = (asyncio.ensure_future(grammars.compile(StructuredOutputs(regex=r))) for r in "ab")
        (refused,) = await asyncio.gather(first, return_exceptions=True)
        has_been_refused.set()
        return refused, await second

    late, waited = asyncio.run(both())
    assert isinstance(late, ParameterError)
    assert "not compiled within" in str(late)
    assert isinstance(waited, Grammar)  # that the one before took long is not its fault
    grammars.close()


def test_a_grammar_that_cannot_be_followed_is_refused_at_the_latest_where_that_shows(
    tokenizer: Tokenizer,
) -> None:
    grammars = grammars_of(tokenizer)
    wide = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(2000)}}
    for wish in (StructuredOutputs(json=wide), StructuredOutputs(regex="(?s:.*)a(?s:.{1500})")):
        grammar = run(grammars.compile(wish))
        with pytest.raises(GrammarTooComplex) as refused:
            walk_again_and_again(grammar, tokenizer)
        assert refused.value.param == wish.where


@pytest.mark.parametrize("field", ["ignore_eos"])
def test_what_contradicts_a_grammar_is_refused(field: str) -> None:
    with pytest.raises(ParameterError, match="contradict") as refused:
        SamplingParams(structured_outputs=StructuredOutputs(regex="a"), **{field: True})
    assert refused.value.param == field
    with pytest.raises(ParameterError, match=r"StructuredOutputs\(\.\.\.\)"):
        SamplingParams(structured_outputs={"regex": "a"})  # type: ignore[arg-type]


def test_a_model_without_an_end_of_text_is_told_so() -> None:
    tokenizer = made(byte_level_backend(), {}, {})
    with pytest.raises(ParameterError, match="no token that ends a text"):
        run(Grammars(tokenizer, [], 400).compile(StructuredOutputs(regex="a")))
