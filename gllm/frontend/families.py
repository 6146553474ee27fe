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
_LLAMA3_CHAT = (
    "<|begin_of_text|>{% for message in messages %}"
    "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}"
    "{{ message.content.strip() + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
_QWEN2_CHAT = (
    "{% if messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
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
    "%s{%% for message in messages %%}{{ '<|' + message.role + '|>\\n%s' + message.content }}{%% endfor %%}"
    "{%% if add_generation_prompt %%}<|assistant|>{%% endif %%}"
)

FAMILIES = (
    Family(
        name="llama3",
        model_types=frozenset({"llama"}),
        marks=("<|start_header_id|>", "<|eot_id|>"),
        stops=("<|end_of_text|>", "<|eot_id|>"),
        template=_LLAMA3_CHAT,
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
        file_kind=FileKind.MERGES,
        pattern=ONE_DIGIT,
        appended=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    ),
    Family(
        name="chatglm3",
        model_types=frozenset({"chatglm"}),
        marks=("[gMASK]", "sop", "<|user|>"),
        stops=("</s>", "<|user|>", "<|observation|>"),
        template=_GLM_CHAT % ("[gMASK]sop", " "),
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
