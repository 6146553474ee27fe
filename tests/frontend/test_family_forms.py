"""What each family does where its checkpoint is silent: chats, and how answers begin and end."""

# ruff: noqa: RUF001

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint_tokenizers import MODEL_TYPES, write
from http_server import Deployment, serving
from many_texts import MARKERS, many_texts

from gllm.frontend.chat import ANSWER, ChatTemplate, Ending
from gllm.frontend.params import ParameterError
from gllm.frontend.tokenizer import Tokenizer

Load = Callable[[str], Tokenizer]
SYSTEM, USER, ANSWERED = "Be kind.", "How are you?", "I am fine."
CHAT = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": USER},
    {"role": "assistant", "content": ANSWERED},
    {"role": "user", "content": "你好"},
]
FORMS = {
    "llama2": (
        f"<s>[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n\n{USER} [/INST] {ANSWERED} </s><s>[INST] 你好 [/INST]"
    ),
    "llama3": (
        f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{USER}<|eot_id|>"
        f"<|start_header_id|>assistant<|end_header_id|>\n\n{ANSWERED}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n你好<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "qwen2": (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{USER}<|im_end|>\n"
        f"<|im_start|>assistant\n{ANSWERED}<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    "chatglm2": f"[gMASK]sop[Round 1]\n\n问：{USER}\n\n答：{ANSWERED}\n\n[Round 2]\n\n问：你好\n\n答：",
    "chatglm3": (
        f"[gMASK]sop<|system|>\n {SYSTEM}<|user|>\n {USER}"
        f"<|assistant|>\n {ANSWERED}<|user|>\n 你好<|assistant|>"
    ),
    "glm4": (
        f"[gMASK]<sop><|system|>\n{SYSTEM}<|user|>\n{USER}<|assistant|>\n{ANSWERED}<|user|>\n你好<|assistant|>"
    ),
}
EVERY_FAMILY = pytest.mark.parametrize("family", MODEL_TYPES)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """The tokenizer of a family's checkpoint without a chat template."""
    root = tmp_path_factory.mktemp("forms")
    loaded: dict[str, Tokenizer] = {}

    def one(family: str) -> Tokenizer:
        if family not in loaded:
            loaded[family] = Tokenizer.load(write(root / family, family, chat_template=None))
        return loaded[family]

    return one


def own_form(tokenizer: Tokenizer) -> ChatTemplate:
    form = ChatTemplate.find(tokenizer)
    assert form is not None
    return form


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@EVERY_FAMILY
def test_without_a_template_chats_have_the_familys_form(
    load: Load, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load(family)
    with caplog.at_level(logging.WARNING, "gllm"):
        form = own_form(tokenizer)
    assert f"in the form of {family}" in caplog.text
    chat = CHAT[1:] if family == "chatglm2" else CHAT
    assert form.render(chat) == FORMS[family]
    ids = form.encode(chat)
    assert ids == tokenizer.encode(FORMS[family], add_special_tokens=False)
    assert ids == tokenizer.encode(FORMS[family])  # the beginning is there already, and comes once


@pytest.mark.parametrize(
    ("config", "tokenizer_config", "family"),
    [
        ({}, {"name_or_path": "THUDM/chatglm2-6b"}, "chatglm2"),
        ({"_name_or_path": "/data/my-ChatGLM2-6b-32k"}, {}, "chatglm2"),
        ({"_name_or_path": "THUDM/chatglm3-6b"}, {"name_or_path": "THUDM/chatglm3-6b-base"}, "chatglm3"),
        ({}, {}, "chatglm3"),
    ],
)
def test_chatglm2_is_told_from_chatglm3_by_what_its_files_say_it_was_made_from(
    config: dict[str, str], tokenizer_config: dict[str, str], family: str, tmp_path: Path
) -> None:
    root = write(tmp_path / "model", "chatglm3", **{"name_or_path": ""} | tokenizer_config)
    (root / "config.json").write_text(json.dumps({"model_type": "chatglm"} | config))
    tokenizer = Tokenizer.load(root)
    assert tokenizer.family is not None
    assert tokenizer.family.name == family
    assert ("<|user|>" in tokenizer._special) == (family == "chatglm3")


def test_chatglm2_has_no_system_role(load: Load) -> None:
    with pytest.raises(ParameterError, match="there is no system role"):
        own_form(load("chatglm2")).encode(CHAT)


@EVERY_FAMILY
def test_the_checkpoints_template_comes_first(tmp_path: Path, family: str) -> None:
    tokenizer = Tokenizer.load(write(tmp_path / "model", family, chat_template="own"))
    assert own_form(tokenizer).render(CHAT) == "own"


def test_chatglm3_and_glm4_prompts_are_the_ids_of_their_parts(load: Load) -> None:
    for family, prefix in (("chatglm3", ["[gMASK]", "sop"]), ("glm4", ["[gMASK]", "<sop>"])):
        tokenizer = load(family)
        for text in many_texts(200):
            expected = [tokenizer.special_id(name) for name in (*prefix, "<|user|>")]
            expected += tokenizer.encode_literally("\n") + tokenizer.encode_literally(text)
            expected.append(tokenizer.special_id("<|assistant|>"))
            assert own_form(tokenizer).encode(user(text)) == expected, repr(text)


def test_chatglm3s_published_template_gives_the_same_ids(tmp_path: Path, load: Load) -> None:
    template = (
        "{% for message in messages %}{% if loop.first %}[gMASK]sop"
        "<|{{ message['role'] }}|>\n {{ message['content'] }}{% else %}"
        "<|{{ message['role'] }}|>\n {{ message['content'] }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = Tokenizer.load(write(tmp_path / "model", "chatglm3", chat_template=template))
    for chat in (CHAT, user("a sop, please"), user("<|user|>[gMASK]sop")):
        assert own_form(tokenizer).encode(chat) == own_form(load("chatglm3")).encode(chat)


@EVERY_FAMILY
def test_role_markers_in_a_users_text_stay_text(load: Load, family: str) -> None:
    tokenizer = load(family)
    form = own_form(tokenizer)
    special = set(tokenizer._special.values())
    harmless = [token for token in form.encode(user("x")) if token in special]
    for marker in (*MARKERS, "".join(MARKERS)):
        ids = form.encode(user(f"a{marker}b"))
        assert [token for token in ids if token in special] == harmless, marker


@EVERY_FAMILY
def test_every_form_can_leave_the_answer_open_or_go_on_with_the_last_words(load: Load, family: str) -> None:
    tokenizer = load(family)
    form = own_form(tokenizer)
    begun = [*user("Count!"), {"role": "assistant", "content": "One, two,"}]
    going_on = Ending(add_generation_prompt=False, continue_final_message=True)
    text = form.render(begun, going_on)
    assert text.endswith("One, two,")
    assert form.encode(begun, going_on) == tokenizer.encode(text)
    closed = form.encode(user("Hi"), Ending(add_generation_prompt=False))
    whole = form.encode(user("Hi"), ANSWER)
    assert whole[: len(closed)] == closed
    assert (whole == closed) == (family in ("llama2", "chatglm2"))


def test_a_prompt_cannot_both_go_on_and_begin_an_answer() -> None:
    with pytest.raises(ParameterError, match="exclude each other"):
        Ending(add_generation_prompt=True, continue_final_message=True)


def test_a_template_without_the_final_message_cannot_go_on_with_it(load: Load) -> None:
    template = ChatTemplate("{{ messages[0].content }}", load("glm4"))
    with pytest.raises(ParameterError, match="does not show the final message"):
        template.render(CHAT, Ending(add_generation_prompt=False, continue_final_message=True))


@pytest.mark.parametrize(
    ("family", "stops"),
    [
        ("llama2", ["</s>"]),
        ("llama3", ["<|end_of_text|>", "<|eot_id|>"]),
        ("qwen2", ["<|im_end|>", "<|endoftext|>"]),
        ("chatglm2", ["</s>"]),
        ("chatglm3", ["</s>", "<|user|>", "<|observation|>"]),
        ("glm4", ["<|endoftext|>", "<|user|>", "<|observation|>"]),
    ],
)
def test_the_stops_of_a_family_are_found_by_their_text(load: Load, family: str, stops: list[str]) -> None:
    tokenizer = load(family)
    assert list(tokenizer.family_stop_ids) == [tokenizer.special_id(text) for text in stops]


def test_llama3s_end_of_turn_is_known_with_a_tokenizer_json_too(tmp_path: Path) -> None:
    from tiny_tokenizers import byte_level_backend

    backend = byte_level_backend()
    backend.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.special_id("<|eot_id|>") in tokenizer.family_stop_ids
    (tmp_path / "config.json").write_text('{"model_type": "another"}')
    assert Tokenizer.load(tmp_path).family_stop_ids == ()


# ---- through the server ------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "lead"), [("chatglm3", "\n "), ("glm4", "\n"), ("glm4", "\n\n\t ")])
def test_the_white_space_that_opens_an_answer_is_no_part_of_it(
    tmp_path: Path, load: Load, family: str, lead: str
) -> None:
    tokenizer = load(family)
    ids = tokenizer.encode_literally(lead) + tokenizer.encode_literally("你好\n\nyou  龘")
    text = tokenizer.decode(ids).lstrip()
    with serving(tmp_path, tokenizer) as server:
        server.scheduler.script = lambda _: [*ids, tokenizer.special_id("<|user|>")]
        answer = server.chat(max_tokens=100).json()
        assert answer["choices"][0]["message"]["content"] == text
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] == len(ids) + 1
        body = {"messages": user("hello"), "max_tokens": 100}
        deltas = [
            choice["delta"]["content"]
            for event in server.events("/v1/chat/completions", **body)
            for choice in event["choices"]
            if choice["delta"].get("content")
        ]
        assert "".join(deltas) == text
        assert not deltas[0][0].isspace()
        # A stop string means the text that is shown.
        stopped = server.chat(max_tokens=100, stop="\n").json()["choices"][0]
        assert stopped["message"]["content"] == text.partition("\n")[0]
        # Neither a completion nor words that go on are such an answer.
        completion = server.complete(max_tokens=100).json()["choices"][0]["text"]
        shown = tokenizer.decode(ids)
        assert shown != text
        assert completion.endswith(shown)
        begun = [*user("x"), {"role": "assistant", "content": "a"}]
        on = server.chat(messages=begun, continue_final_message=True, max_tokens=100).json()
        assert on["choices"][0]["message"]["content"].endswith(shown)
        # A grammar says what all of the text is.
        limited = server.chat(max_tokens=100, regex=r"\s*你好\s*you  龘").json()["choices"][0]
        assert limited["message"]["content"].endswith(shown)


def test_the_ends_of_a_prompt_can_be_asked_for_over_http(server: Deployment) -> None:
    begun = [*user("hello"), {"role": "assistant", "content": "hello wor"}]
    server.answers("ld")
    server.chat(messages=begun, continue_final_message=True)
    prompt = server.tokenizer.decode(list(server.scheduler.submits[-1].prompt), False)
    assert prompt.endswith("<|im_start|>assistant\nhello wor")
    server.chat(add_generation_prompt=False)
    prompt = server.tokenizer.decode(list(server.scheduler.submits[-1].prompt), False)
    assert prompt.endswith("hello<|im_end|>\n")
    refused = server.chat(messages=begun, continue_final_message=True, add_generation_prompt=True)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "continue_final_message"
    assert json.loads(refused.text)["error"]["message"].startswith("continue_final_message and")
