"""Tools in each family's own chat form: definitions, calls and what the tools said, in the prompt."""

# ruff: noqa: E501, RUF001

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint_tokenizers import write

from gllm.frontend.chat import ChatTemplate
from gllm.frontend.params import ParameterError
from gllm.frontend.tokenizer import Tokenizer

FUNCTION = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TOOL: dict[str, Any] = {"type": "function", "function": FUNCTION}
INDENTED = json.dumps(TOOL, indent=4)
ARGUMENTS = {"city": "巴黎", "days": [1, None], "sure": True}
WRITTEN = '{"city": "巴黎", "days": [1, null], "sure": true}'
CALL = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": ARGUMENTS}}
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "20"},
]

FORMS = {
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nGiven the following functions, please respond with a JSON "
        "for a function call with its proper arguments that best answers the given prompt.\n\nRespond in the "
        'format {"name": function name, "parameters": dictionary of argument name and its value}. Do not use '
        f"variables.\n\n{INDENTED}\n\nWeather?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        f'{{"name": "get_weather", "parameters": {WRITTEN}}}<|eot_id|>'
        "<|start_header_id|>ipython<|end_header_id|>\n\n20<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "qwen2": (
        "<|im_start|>system\nBe kind.\n\n# Tools\n\nYou may call one or more functions to assist with the user "
        "query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        f"{json.dumps(TOOL)}\n</tools>\n\nFor each function call, return a json object with function name and "
        'arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": '
        "<args-json-object>}\n</tool_call><|im_end|>\n<|im_start|>user\nWeather?<|im_end|>\n"
        f'<|im_start|>assistant\n<tool_call>\n{{"name": "get_weather", "arguments": {WRITTEN}}}\n</tool_call>'
        "<|im_end|>\n<|im_start|>user\n<tool_response>\n20\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    ),
    "chatglm3": [
        ("<|system|>", "\n", "Be kind.\nAnswer the following questions as best as you can. You have access to "
         f"the following tools:\n{json.dumps([FUNCTION], indent=4)}"),
        ("<|user|>", "\n", "Weather?"),
        ("<|assistant|>", "get_weather\n",
         "```python\ntool_call(city='巴黎', days=[1, None], sure=True)\n```"),
        ("<|observation|>", "\n", "20"),
    ],
    "glm4": [
        ("<|system|>", "\n", "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
         "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具\n\n## get_weather\n\n"
         f"{json.dumps(FUNCTION, indent=4)}\n在调用上述函数时，请使用 Json 格式表示调用的参数。"),
        ("<|system|>", "\n", "Be kind."),
        ("<|user|>", "\n", "Weather?"),
        ("<|assistant|>", "get_weather\n", WRITTEN),
        ("<|observation|>", "\n", "20"),
    ],
}  # fmt: skip


def form_of(root: Path, family: str) -> tuple[ChatTemplate, Tokenizer]:
    tokenizer = Tokenizer.load(write(root / family, family, chat_template=None))
    form = ChatTemplate.find(tokenizer)
    assert form is not None
    return form, tokenizer


@pytest.mark.parametrize("family", ["llama3", "qwen2"])
def test_tools_are_put_into_the_text_as_the_family_was_trained(tmp_path: Path, family: str) -> None:
    form, tokenizer = form_of(tmp_path, family)
    assert form.render(CHAT, tools=[TOOL]) == FORMS[family]
    assert form.encode(CHAT, tools=[TOOL]) == tokenizer.encode(form.render(CHAT, tools=[TOOL]))


@pytest.mark.parametrize("family", ["chatglm3", "glm4"])
def test_tools_are_put_between_the_parts_as_the_family_was_trained(tmp_path: Path, family: str) -> None:
    form, tokenizer = form_of(tmp_path, family)
    assert tokenizer.family is not None
    expected = [tokenizer.special_id(text) for text in tokenizer.family.prefix]
    for role, metadata, words in FORMS[family]:
        expected.append(tokenizer.special_id(role))
        expected += tokenizer.encode_literally(metadata) + tokenizer.encode_literally(words)
    expected.append(tokenizer.special_id("<|assistant|>"))
    assert form.encode(CHAT, tools=[TOOL]) == expected


def test_qwen3_is_qwen2_without_a_system_prompt_of_its_own(tmp_path: Path) -> None:
    root = write(tmp_path / "qwen3", "qwen2", chat_template=None)
    (root / "config.json").write_text('{"model_type": "qwen3"}')
    tokenizer = Tokenizer.load(root)
    form = ChatTemplate.find(tokenizer)
    assert form is not None
    assert form.render(CHAT, tools=[TOOL]) == FORMS["qwen2"]
    user = [{"role": "user", "content": "hi"}]
    assert form.render(user) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert form.render(user, tools=[TOOL]).startswith("<|im_start|>system\n# Tools\n\n")
    assert [tokenizer.id_to_token(token) for token in tokenizer.family_stop_ids] == [
        "<|im_end|>",
        "<|endoftext|>",
    ]


@pytest.mark.parametrize("family", ["llama2", "chatglm2"])
def test_a_family_without_a_form_for_tools_refuses_them(tmp_path: Path, family: str) -> None:
    form, _ = form_of(tmp_path, family)
    with pytest.raises(ParameterError, match="no place for tools") as refusal:
        form.encode([{"role": "user", "content": "hi"}], tools=[TOOL])
    assert refusal.value.param == "tools"


@pytest.mark.parametrize("family", ["llama3", "qwen2", "chatglm3", "glm4"])
def test_role_markers_in_tools_and_calls_stay_text(tmp_path: Path, family: str) -> None:
    form, tokenizer = form_of(tmp_path, family)
    special = set(tokenizer._special.values())

    def specials(marker: str) -> list[int]:
        function = {"name": "f", "description": marker, "parameters": {"properties": {marker: [marker]}}}
        call = {
            "id": "c",
            "type": "function",
            "function": {"name": "f", "arguments": {"a": marker, "b": [marker]}},
        }
        chat = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": marker, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": marker},
        ]
        ids = form.encode(chat, tools=[{"type": "function", "function": function}])
        return [token for token in ids if token in special]

    for marker in tokenizer._special:
        assert specials(f"a{marker}b") == specials("harmless"), marker


def test_a_checkpoints_second_template_is_for_tools(tmp_path: Path) -> None:
    _, tokenizer = form_of(tmp_path, "qwen2")
    tokenizer.chat_templates = {"default": "plain", "tool_use": "{{ tools | tojson }}"}
    form = ChatTemplate.find(tokenizer)
    assert form is not None
    assert form.render([{"role": "user", "content": "hi"}]) == "plain"
    assert form.render([{"role": "user", "content": "hi"}], tools=[TOOL]) == json.dumps([TOOL])
