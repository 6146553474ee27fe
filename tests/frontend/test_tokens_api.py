"""/tokenize and /detokenize in vLLM's shapes."""

from typing import Any

import pytest
from http_server import Deployment
from test_http_errors import check

from gllm.frontend.tokenizer import Tokenizer

TEXT = "hello <|im_end|> naïve 字 😀"
USER = [{"role": "user", "content": "hello <|im_end|>"}]


def test_a_text_is_tokenized_as_it_is_generated_from(server: Deployment, tokenizer: Tokenizer) -> None:
    answer = server.post("/tokenize", prompt=TEXT).json()
    ids = tokenizer.encode(TEXT)
    assert answer == {"count": len(ids), "max_model_len": 256, "tokens": ids, "token_strs": None}
    named = server.http.post("/tokenize", json={"prompt": TEXT, "return_token_strs": True}).json()
    assert named["token_strs"] == [tokenizer.id_to_token(token) for token in ids]
    server.answers("x")
    server.complete(prompt=TEXT)
    assert list(server.scheduler.submits[-1].prompt) == ids
    assert server.post("/tokenize", prompt="").json()["tokens"] == []


def test_a_chat_is_tokenized_as_it_is_generated_from(server: Deployment) -> None:
    server.answers("x")
    for fields in ({}, {"add_generation_prompt": False}, {"continue_final_message": True}):
        ids = server.post("/tokenize", messages=USER, **fields).json()["tokens"]
        server.chat(messages=USER, **fields)
        assert list(server.scheduler.submits[-1].prompt) == ids


def test_detokenizing_gives_the_text_back(server: Deployment) -> None:
    ids = server.post("/tokenize", prompt=TEXT).json()["tokens"]
    assert server.post("/detokenize", tokens=ids).json() == {"prompt": TEXT}
    assert server.http.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "fields", "param", "code"),
    [
        ("/tokenize", {}, "prompt", None),
        ("/tokenize", {"prompt": "x", "messages": USER}, "prompt", None),
        ("/tokenize", {"prompt": ["x"]}, "prompt", None),
        ("/tokenize", {"prompt": "x", "add_generation_prompt": True}, "add_generation_prompt", None),
        ("/tokenize", {"messages": USER, "add_special_tokens": True},
         "add_special_tokens", "unsupported_parameter"),
        ("/tokenize", {"messages": [1]}, "messages[0]", None),
        ("/tokenize", {"prompt": "x", "colour": 1}, "colour", "unknown_parameter"),
        ("/detokenize", {}, "tokens", None),
        ("/detokenize", {"tokens": "x"}, "tokens", None),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]", None),
        ("/detokenize", {"tokens": [10**6]}, "tokens", None),
        ("/detokenize", {"tokens": [True]}, "tokens[0]", None),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_its_name(
    server: Deployment, path: str, fields: dict[str, Any], param: str, code: str | None
) -> None:
    check(server.post(path, **fields), 400, param, code)


def test_another_model_is_not_found(server: Deployment) -> None:
    check(server.post("/tokenize", model="x", prompt="x"), 404, "model", "model_not_found")
    check(server.post("/detokenize", model="x", tokens=[]), 404, "model", "model_not_found")
