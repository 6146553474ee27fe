"""Messages to prompts: as Hugging Face's libraries render them, with users' text kept as text."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizers import CHATML, byte_fallback_backend, byte_level_backend, made

from gllm.frontend.chat import ChatTemplate
from gllm.frontend.messages import MAX_MESSAGES, checked_messages
from gllm.frontend.params import ParameterError
from gllm.process import StartError

TOKENIZER = made(byte_level_backend(), {"eos_token": "<|im_end|>"}, {"default": CHATML})
CHAT = ChatTemplate(CHATML, TOKENIZER)

TEMPLATES = {
    "chatml": CHATML,
    "qwen2": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
        "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
        "{% endif %}{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
        "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "blocks": (
        "{%- for message in messages %}\n"
        "    {%- if loop.first %}\n        {{- bos_token }}\n    {%- endif %}\n"
        "    {%- if message.role == 'assistant' %}\n"
        "        {%- generation %}{{ message.content | trim }}{{ eos_token }}{% endgeneration %}\n"
        "    {%- else %}\n        {{- message | tojson }}\n    {%- endif %}\n"
        "    {%- if loop.index > 3 %}{% break %}{% endif %}\n"
        "{%- endfor %}\n{% if tools %}tools{% endif %}"
    ),
}
CHATS = [
    [("user", "hi")],
    [("system", ' be <kind> & "good" '), ("user", " hello\n"), ("assistant", " oh "), ("user", "中文")],
]


def messages(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def calling(**function: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("chat", CHATS)
def test_templates_render_as_in_transformers(name: str, chat: list[tuple[str, str]]) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    expected, _ = render_jinja_template(
        [messages(*chat)], chat_template=TEMPLATES[name], add_generation_prompt=True, **tokens
    )
    tokenizer = made(byte_fallback_backend(), tokens, {})
    assert [ChatTemplate(TEMPLATES[name], tokenizer).render(messages(*chat))] == expected


@given(content=st.text(max_size=50).filter(lambda text: not TOKENIZER.special_pattern.search(text)))
def test_a_plain_chat_is_the_encoding_of_its_text(content: str) -> None:
    chat = messages(("user", content))
    assert CHAT.encode(chat) == TOKENIZER.encode(CHAT.render(chat), add_special_tokens=False)


SPELLINGS = ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|im_", "end|>", "a", " ", "\n", "中"]


@given(parts=st.lists(st.sampled_from(SPELLINGS), max_size=12))
def test_special_tokens_in_a_users_text_stay_text(parts: list[str]) -> None:
    content = "".join(parts)
    ids = CHAT.encode(messages(("user", content)))
    harmless = CHAT.encode(messages(("user", "harmless")))
    for token in ("<|im_end|>", "<|im_start|>", "<|endoftext|>"):
        assert ids.count(TOKENIZER.special_id(token)) == harmless.count(TOKENIZER.special_id(token))
    # Nothing is lost: the model reads what the user wrote.
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == CHAT.render(messages(("user", content)))


def test_a_guarded_text_is_encoded_as_if_nothing_special_were_in_it() -> None:
    ids = CHAT.encode(messages(("user", "a <|im_end|> b")))
    plain = TOKENIZER.encode_literally("user\na <|im_end|> b")
    assert plain == ids[1 : 1 + len(plain)]


def test_a_space_piece_is_put_behind_each_special_token_as_always() -> None:
    """Llama 2 with HTML in the user's text: "<s>" there is strike-through, not the beginning of a text."""
    tokenizer = made(byte_fallback_backend(), {"bos_token": "<s>"}, {})
    chat = ChatTemplate("{{ bos_token }}{{ messages[0].content }}", tokenizer)
    ids = chat.encode(messages(("user", "hello <s>hello</s>")))
    assert ids[0] == tokenizer.special_id("<s>")
    assert ids[1:] == tokenizer.encode_literally("hello <s>hello</s>")
    assert tokenizer.special_id("<s>") not in ids[1:]


@pytest.mark.parametrize(
    ("given_messages", "param", "word"),
    [
        (None, "messages", "list"),
        ([], "messages", "empty"),
        ([{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1), "messages", "at most"),
        (["hi"], "messages[0]", "object"),
        ([{"content": "x"}], "messages[0].role", "one of"),
        ([{"role": "wizard", "content": "x"}], "messages[0].role", "one of"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role", "one of"),
        ([{"role": "function", "content": "x"}], "messages[0].role", "not supported"),
        ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id", "string"),
        ([{"role": "tool", "tool_call_id": "c"}], "messages[0].content", "string"),
        ([{"role": "assistant", "content": None}], "messages[0].content", "string"),
        ([{"role": "assistant", "content": "x", "audio": {}}], "messages[0].audio", "not supported"),
        ([{"role": "assistant", "tool_calls": {}}], "messages[0].tool_calls", "list"),
        ([{"role": "assistant", "tool_calls": [{"id": "c"}]}], "messages[0].tool_calls[0]", "object"),
        (
            [calling(name="a b", arguments="{}")],
            "messages[0].tool_calls[0].function.name",
            "no name",
        ),
        (
            [calling(name="f", arguments='{"a":' * 70 + "1" + "}" * 70)],
            "messages[0].tool_calls[0].function.arguments",
            "JSON of an object",
        ),
        ([calling(name="f", arguments={})], "messages[0].tool_calls[0]", "object"),
        (
            [calling(name="f", arguments="[1]")],
            "messages[0].tool_calls[0].function.arguments",
            "JSON of an object",
        ),
        ([{"role": "user"}], "messages[0].content", "string"),
        ([{"role": "user", "content": 3}], "messages[0].content", "string"),
        ([{"role": "user", "content": []}], "messages[0].content", "string"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]", "object"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0]", "object"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a"}}]}],
            "messages[0].content[0].type",
            "text only",
        ),
        ([{"role": "user", "content": "x", "tool_calls": [1]}], "messages[0].tool_calls", "belong"),
        ([{"role": "user", "content": "x", "colour": 1}], "messages[0].colour", "unknown"),
        ([{"role": "user", "content": "x", "name": 1}], "messages[0].name", "string"),
    ],
)
def test_what_is_no_message_is_refused_with_its_place(given_messages: Any, param: str, word: str) -> None:
    with pytest.raises(ParameterError, match=word) as refusal:
        checked_messages(given_messages)
    assert refusal.value.param == param


def test_parts_are_joined_and_developers_speak_as_the_system() -> None:
    given_messages = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": "c", "name": "Ann", "tool_calls": None},
    ]
    assert checked_messages(given_messages) == [
        {"role": "system", "content": "a\nb"},
        {"role": "user", "content": "c", "name": "Ann"},
    ]


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% set _ = messages.append(1) %}",
        "{{ messages[5].content }}",
        "{% for a in range(10 ** 9) %}x{% endfor %}",
    ],
)
def test_a_template_that_breaks_out_or_fails_ends_that_request_only(template: str) -> None:
    with pytest.raises(ParameterError, match="cannot render"):
        ChatTemplate(template, TOKENIZER).render(messages(("user", "x")))


def test_a_templates_own_refusal_reaches_the_user() -> None:
    with pytest.raises(ParameterError, match="roles must alternate"):
        ChatTemplate(TEMPLATES["llama2"], TOKENIZER).render(messages(("assistant", "x")))


def test_the_operators_file_comes_before_the_checkpoints(tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("own")
    chosen = ChatTemplate.find(TOKENIZER, file)
    assert chosen is not None
    assert chosen.render([]) == "own"
    assert ChatTemplate.find(made(byte_level_backend(), {}, {})) is None


def test_a_broken_template_stops_the_start_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("a\n{% if %}")
    with pytest.raises(StartError, match="line 2"):
        ChatTemplate.find(TOKENIZER, file)
    with pytest.raises(StartError, match="cannot be read"):
        ChatTemplate.find(TOKENIZER, tmp_path / "missing.jinja")
