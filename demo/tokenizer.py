"""The tokenizer of the demo model: byte-level BPE trained on the corpus, the chat template, loss masks.

Knows token ids and the chat format; knows nothing about the network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from demo.corpus import Message, render, training_dialogues

VOCAB_SIZE = 1024
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
END_OF_TEXT_ID, TURN_START_ID, TURN_END_ID = 0, 1, 2
IGNORED = -100

# Letters keep one space or hyphen before them (" cat", "-a" in c-a-t); every digit stands alone, so that sums
# are digit columns; the last alternatives take the rest, so that any text is covered.
PIECES = r"[ -]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def train_tokenizer(seed: int, *, num_dialogues: int = 3000) -> Tokenizer:
    """Byte-level BPE over the text of the corpus; its alphabet is all 256 bytes, so no text is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    dialogues = training_dialogues(seed, num_chars=1000)
    texts = (f"{m['role']}\n{m['content']}" for _ in range(num_dialogues) for m in next(dialogues))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path, *, max_length: int) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "bos_token": END_OF_TEXT,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def encode_dialogues(
    tokenizer: Tokenizer, dialogues: Sequence[list[Message]], *, length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and labels, both [num_dialogues, length], one dialogue a row, cut or padded on the right.

    A label is the id itself inside an assistant's answer, its end-of-turn token included, else IGNORED.
    """
    ids = np.full((len(dialogues), length), END_OF_TEXT_ID, dtype=np.int64)
    labels = np.full_like(ids, IGNORED)
    assistant = tokenizer.encode("assistant").ids
    header = [TURN_START_ID, *assistant, *tokenizer.encode("\n").ids]
    encodings = tokenizer.encode_batch([render(dialogue) for dialogue in dialogues])
    for row, encoding in enumerate(encodings):
        tokens = np.array(encoding.ids[:length])
        ids[row, : len(tokens)] = tokens
        starts, ends = np.flatnonzero(tokens == TURN_START_ID), np.flatnonzero(tokens == TURN_END_ID)
        for turn, start in enumerate(starts):
            if tokens[start : start + len(header)].tolist() == header:
                answer = slice(start + len(header), ends[turn] + 1 if turn < len(ends) else length)
                labels[row, answer] = ids[row, answer]
    return ids, labels
