"""Texts drawn at random from each of two hundred schemas' grammars are what the schemas describe."""

import asyncio
import json
import random

import jsonschema
from many_schemas import SCHEMAS

from gllm.frontend.structured.grammar import Grammars
from gllm.frontend.structured.wish import StructuredOutputs
from gllm.frontend.tokenizer import Tokenizer

MOST_TOKENS = 1000


async def draw(grammars: Grammars, tokenizer: Tokenizer, name: str, rng: random.Random) -> str:
    """A text of the schema, by tokens of equal chance; after a while it ends as soon as it may."""
    end = tokenizer.eos_token_id
    constraint = (await grammars.compile(StructuredOutputs(json=SCHEMAS[name]))).constraint(1)
    mask, ids = constraint.first_mask, []
    while len(ids) < MOST_TOKENS:
        bits = int.from_bytes(mask, "little")
        allowed = [token for token in range(tokenizer.vocab_size) if bits >> token & 1]
        if end in allowed and (len(allowed) == 1 or len(ids) > 20 or rng.random() < 0.2):
            return tokenizer.decode(ids)
        ids.append(rng.choice([token for token in allowed if token != end]))
        mask = constraint.mask_after(0, ids[-1])
    raise AssertionError(f"{name}: no end after {MOST_TOKENS} tokens")


def test_texts_drawn_at_random_are_what_the_schemas_describe() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    tokenizer = Tokenizer.load("demo/model")
    assert tokenizer.eos_token_id is not None
    grammars = Grammars(tokenizer, [tokenizer.eos_token_id], tokenizer.vocab_size)

    async def draw_all() -> dict[str, str]:
        rng = random.Random(seed)
        return {name: await draw(grammars, tokenizer, name, rng) for name in SCHEMAS}

    for name, text in asyncio.run(draw_all()).items():
        jsonschema.validate(json.loads(text), SCHEMAS[name], jsonschema.Draft202012Validator)
    assert len(SCHEMAS) >= 200
