"""The parts of a chat in the forms of ChatGLM3 and GLM-4: a role, a metadata line and words, each.

The metadata is the name of the tool that an answer calls. Knows nothing of tokens. Sources: the prompt
guides of ChatGLM3 and GLM-4.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

CHATGLM3_TOOLS = (
    "Answer the following questions as best as you can. You have access to the following tools:\n"
)
GLM4_SYSTEM = (
    "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"  # noqa: RUF001
    "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
)
GLM4_HOW = "\n在调用上述函数时，请使用 Json 格式表示调用的参数。"  # noqa: RUF001


def glm_parts(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], form: str
) -> Iterator[tuple[str, str, str]]:
    """Role, metadata and words of each part; `form` is chatglm3 or glm4."""
    functions = [tool["function"] for tool in tools]
    if functions and form == "glm4":
        each = [f"\n\n## {function['name']}\n\n{_indented(function)}" for function in functions]
        yield "system", "", GLM4_SYSTEM + "".join(each) + GLM4_HOW
    elif functions:
        own = ""
        if messages[0]["role"] == "system":
            own = messages[0]["content"] + "\n"
            messages = messages[1:]
        yield "system", "", own + CHATGLM3_TOOLS + _indented(functions)
    write = _json if form == "glm4" else _python
    for message in messages:
        calls = message.get("tool_calls", ())
        if message["content"] or not calls:
            yield "observation" if message["role"] == "tool" else message["role"], "", message["content"]
        for call in calls:
            yield "assistant", call["function"]["name"], write(call["function"]["arguments"])


def _json(arguments: dict[str, Any]) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def _python(arguments: dict[str, Any]) -> str:
    written = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"```python\ntool_call({written})\n```"


def _indented(value: Any) -> str:
    return json.dumps(value, indent=4, ensure_ascii=False)
