"""The model families: what their checkpoints leave unsaid about tokens, prompts and the end of an answer.

A table; to add a family, add its row. Ids are never written here: special tokens are named by their
spelling, and those that a tokenizer.model leaves out follow its pieces in the order of `appended`.
Knows nothing of how text becomes tokens.
"""

# ruff: noqa: RUF001

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum


class FileKind(Enum):
    """What a checkpoint without tokenizer.json has instead."""

    SENTENCEPIECE = "SentencePiece tokenizer.model"
    TIKTOKEN = "tiktoken tokenizer.model"
    MERGES = "vocab.json with merges.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What a family's checkpoints have in common.

    name: of two families alike in type and file, the second one is meant where a checkpoint's files name
    what it was made from, and this is part of that.
    model_types: as config.json names them. marks: special tokens that only this one of the types has.
    stops: tokens that end an answer, beside those that the checkpoint's files name.
    tool_form: how its models write calls of tools, by a name of `tool_calls.forms`; "" where they do not.
    template: the chat form where the checkpoint ships none. joins_ids: its prompts are tokens of the
    parts one by one, not tokens of one text. begins_blank: white space opens an answer, and is not part
    of it.
    file_kind: the file that stands in for a tokenizer.json. pattern: how it splits text into words.
    appended: the tokens behind its pieces. prefix: the tokens in front of every text.
    words: tokens spelled as a plain word, which a text means only behind the first of `prefix`.
    """

    name: str
    model_types: frozenset[str]
    marks: tuple[str, ...]
    stops: tuple[str, ...]
    template: str
    tool_form: str = ""
    joins_ids: bool = False
    begins_blank: bool = False
    file_kind: FileKind
    pattern: str = ""
    appended: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


# How the byte-level tokenizers split text; they differ in how many digits make one word.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
THREE_DIGITS, ONE_DIGIT = _WORDS % "{1,3}", _WORDS % ""

_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")

_LLAMA2_CHAT = (
    "{% if messages[0].role == 'system' %}{% set turns = messages[1:] %}"
    "{% set opening = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}"
    "{% else %}{% set turns = messages %}{% set opening = '' %}{% endif %}"
    "{% for message in turns %}{% if message.role != ('user' if loop.index0 % 2 == 0 else 'assistant') %}"
    "{{ raise_exception('roles must alternate: user, assistant, user, and so on') }}{% endif %}"
    "{% if message.role == 'user' %}"
    "{{ '<s>[INST] ' + ((opening if loop.first else '') + message.content).strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message.content.strip() + ' </s>' }}{% endif %}{% endfor %}"
)
# With tools as in Llama 3.1: shown in the first user's turn, called as JSON, answered by ipython.
_LLAMA3_CHAT = (
    "<|begin_of_text|>{% set ns = namespace(shown=not tools) %}"
    "{% if tools and messages[0].role != 'system' %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\\n\\nEnvironment: ipython<|eot_id|>' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + ('ipython' if message.role == 'tool' else message.role) }}"
    "{{ '<|end_header_id|>\\n\\n' }}"
    "{% if tools and loop.first and message.role == 'system' %}{{ 'Environment: ipython\\n' }}"
    "{% elif message.role == 'user' and not ns.shown %}{% set ns.shown = true %}"
    "{{ 'Given the following functions, please respond with a JSON for a function call with its proper "
    'arguments that best answers the given prompt.\\n\\nRespond in the format {"name": function name, '
    '"parameters": dictionary of argument name and its value}. Do not use variables.\\n\\n\' }}'
    "{% for tool in tools %}{{ tool | tojson(indent=4) + '\\n\\n' }}{% endfor %}{% endif %}"
    "{{ message.content.strip() }}"
    "{% for call in message.tool_calls %}{{ ('' if loop.first else '; ') + '{\"name\": \"' "
    "+ call.function.name + '\", \"parameters\": ' + (call.function.arguments | tojson) + '}' }}{% endfor %}"
    "<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
# With tools as Qwen2.5, in the form of Hermes: shown in the system's turn, answers in one user's turn.
_QWEN_CHAT = (
    "{% set has_system = messages[0].role == 'system' %}"
    "{% set system = messages[0].content if has_system else default %}"
    "{% if tools or system or has_system %}<|im_start|>system\n{{ system }}"
    "{% if tools %}{{ ('\\n\\n' if system else '') + '# Tools\\n\\nYou may call one or more functions "
    "to assist with the user query."
    "\\n\\nYou are provided with function signatures within <tools></tools> XML tags:\\n<tools>' }}"
    "{% for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}"
    "{{ '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments "
    'within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": <function-name>, "arguments": '
    "<args-json-object>}\\n</tool_call>' }}{% endif %}{{ '<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{% if has_system and loop.first %}"
    "{% elif message.role == 'tool' %}"
    "{{ '' if loop.previtem is defined and loop.previtem.role == 'tool' else '<|im_start|>user' }}"
    "{{ '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}"
    "{{ '' if loop.nextitem is defined and loop.nextitem.role == 'tool' else '<|im_end|>\\n' }}"
    "{% elif message.tool_calls %}"
    "{{ '<|im_start|>assistant' + ('\\n' + message.content if message.content else '') }}"
    '{% for call in message.tool_calls %}{{ \'\\n<tool_call>\\n{"name": "\' + call.function.name '
    "+ '\", \"arguments\": ' + (call.function.arguments | tojson) + '}\\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% else %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_QWEN2_CHAT = "{% set default = 'You are a helpful assistant.' %}" + _QWEN_CHAT
_QWEN3_CHAT = "{% set default = '' %}" + _QWEN_CHAT
# ChatGLM2 has no tokens for roles and no system prompt: its dialogues are numbered rounds of plain text.
_CHATGLM2_CHAT = (
    "[gMASK]sop{% for message in messages %}"
    "{% if message.role != ('user' if loop.index0 % 2 == 0 else 'assistant') %}"
    "{{ raise_exception('roles must alternate: user, assistant, user, and so on; there is no system role') }}"
    "{% endif %}{% if message.role == 'user' %}"
    "{{ '[Round ' ~ (loop.index0 // 2 + 1) ~ ']\\n\\n问：' + message.content + '\\n\\n答：' }}"
    "{% else %}{{ message.content.strip() + '\\n\\n' }}{% endif %}{% endfor %}"
)
_GLM_CHAT = (
    "%s{%% for message in messages %%}"
    "{{ '<|' + ('observation' if message.role == 'tool' else message.role) + '|>\\n%s' + message.content }}"
    "{%% endfor %%}"
    "{%% if add_generation_prompt %%}<|assistant|>{%% endif %%}"
)

FAMILIES = (
    Family(
        name="llama3",
        model_types=frozenset({"llama"}),
        marks=("<|start_header_id|>", "<|eot_id|>"),
        stops=("<|end_of_text|>", "<|eot_id|>"),
        template=_LLAMA3_CHAT,
        tool_form="llama3_json",
        file_kind=FileKind.TIKTOKEN,
        pattern=THREE_DIGITS,
        appended=(
            "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
            "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>",
            "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
            *(f"<|reserved_special_token_{number}|>" for number in range(3, 248)),
        ),
        prefix=("<|begin_of_text|>",),
    ),
    Family(
        name="llama2",
        model_types=frozenset({"llama"}),
        marks=("<s>", "</s>"),
        stops=("</s>",),
        template=_LLAMA2_CHAT,
        file_kind=FileKind.SENTENCEPIECE,
        prefix=("<s>",),
    ),
    Family(
        name="qwen2",
        model_types=frozenset({"qwen2"}),
        marks=("<|im_start|>", "<|im_end|>"),
        stops=("<|im_end|>", "<|endoftext|>"),
        template=_QWEN2_CHAT,
        tool_form="hermes",
        file_kind=FileKind.MERGES,
        pattern=ONE_DIGIT,
        appended=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    ),
    Family(
        name="qwen3",
        model_types=frozenset({"qwen3", "qwen3_moe"}),
        marks=("<|im_start|>", "<|im_end|>"),
        stops=("<|im_end|>", "<|endoftext|>"),
        template=_QWEN3_CHAT,
        tool_form="hermes",
        file_kind=FileKind.MERGES,
        pattern=ONE_DIGIT,
        appended=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),  # the checkpoint's files name the others
    ),
    Family(
        name="chatglm3",
        model_types=frozenset({"chatglm"}),
        marks=("[gMASK]", "sop", "<|user|>"),
        stops=("</s>", "<|user|>", "<|observation|>"),
        template=_GLM_CHAT % ("[gMASK]sop", " "),
        tool_form="chatglm3",
        joins_ids=True,
        begins_blank=True,
        file_kind=FileKind.SENTENCEPIECE,
        appended=("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", *_ROLES),
        prefix=("[gMASK]", "sop"),
        words=("sop", "eop"),
    ),
    Family(
        name="chatglm2",
        model_types=frozenset({"chatglm"}),
        marks=("[gMASK]", "sop"),
        stops=("</s>",),
        template=_CHATGLM2_CHAT,
        begins_blank=True,
        file_kind=FileKind.SENTENCEPIECE,
        appended=("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"),
        prefix=("[gMASK]", "sop"),
        words=("sop", "eop"),
    ),
    Family(
        name="glm4",
        model_types=frozenset({"chatglm", "glm", "glm4"}),
        marks=("[gMASK]", "<sop>", "<|user|>"),
        stops=("<|endoftext|>", "<|user|>", "<|observation|>"),
        template=_GLM_CHAT % ("[gMASK]<sop>", ""),
        tool_form="glm4",
        joins_ids=True,
        begins_blank=True,
        file_kind=FileKind.TIKTOKEN,
        pattern=THREE_DIGITS,
        appended=(
            "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *_ROLES,
            "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
        ),
        prefix=("[gMASK]", "<sop>"),
    ),
)  # fmt: skip


def family_of(model_type: str, specials: Collection[str]) -> Family | None:
    """The family of a model whose tokenizer has these special tokens; None: nothing is known of it."""
    for family in FAMILIES:
        if model_type in family.model_types and all(mark in specials for mark in family.marks):
            return family
    return None


def family_of_file(model_type: str, kind: FileKind, made_from: str) -> Family | None:
    """The family whose checkpoints of this type have a tokenizer file of this kind; of several, the one
    that `made_from` names (ChatGLM2's and ChatGLM3's files are alike in all else), else the first."""
    alike = [family for family in FAMILIES if model_type in family.model_types and family.file_kind is kind]
    named = [family for family in alike if family.name in made_from.lower()]
    return next(iter(named + alike), None)
