"""A thousand texts that tokenizers stumble over, always the same ones."""

# ruff: noqa: RUF001

import random

SCRIPTS = {
    "latin": (0x20, 0x17F), "greek and cyrillic": (0x370, 0x4FF), "hebrew and arabic": (0x5D0, 0x6FF),
    "indic": (0x900, 0xD7F), "thai": (0xE01, 0xE5B), "jamo": (0x1100, 0x11FF), "kana": (0x3041, 0x30FF),
    "han": (0x4E00, 0x9FA5), "hangul": (0xAC00, 0xD7A3), "emoji": (0x1F300, 0x1F6FF),
    "private": (0xE000, 0xE0FF), "far planes": (0x20000, 0x2A6DF), "controls": (0x01, 0x1F),
    "more controls": (0x7F, 0xA0), "combining": (0x300, 0x36F), "punctuation": (0x2000, 0x206F),
    "digits": (0x30, 0x39), "full width": (0xFF01, 0xFF5E),
}  # fmt: skip
WORDS = [
    "The", " quick", " brown", "fox's", "they'RE", " 2024", "1234567", "hello", " world", "中文", "ご飯",
    "你好，世界", "Привет", "한국어", "naïve", "cafe\u0301", "def f(x):\n\treturn x\n", "https://a.b/c?d=e&f",
    "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "\u200b", "\u3000", "\u00a0", "\x00", "\x1b[0m", "\ufeff", "\ufffd",
    "▁", "▁▁a", "<0x41>", "Ġ", "\u0130",
]  # fmt: skip
BLANKS = [
    " ",
    "  ",
    " " * 40,
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\t",
    "\t \t",
    " \n",
    "\n ",
    "\n\n  \n",
    "\u2028",
    " " * 40,
]
MARKERS = [
    "<s>", "</s>", "<unk>", "[INST]", "<<SYS>>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "[gMASK]", "[gMASK]sop", "sop", "<sop>", "<|user|>",
    "<|assistant|>", "<|system|>", "<|observation|>", "<|us", "er|>", "<|", "|>", "[MASK]",
    "<|reserved_special_token_0|>",
]  # fmt: skip


def many_texts(count: int = 1000) -> list[str]:
    draw = random.Random(20261123)

    def letters() -> str:
        low, high = draw.choice(list(SCRIPTS.values()))
        return "".join(chr(draw.randint(low, high)) for _ in range(draw.randint(1, 12)))

    kinds = [letters, lambda: draw.choice(WORDS), lambda: draw.choice(BLANKS), lambda: draw.choice(MARKERS)]
    texts = ["", *WORDS, *BLANKS, *MARKERS, *("a" + text + "b" for text in BLANKS + MARKERS), "x" * 3000]
    while len(texts) < count:
        texts.append("".join(draw.choice(kinds)() for _ in range(draw.randint(1, 12))))
    return texts[:count]
