"""Measures the demo model on questions that training never saw: `python -m demo.evaluate`.

Greedy answers by transformers in float32, one row of the table a skill, as a table and on request as JSON.
Knows nothing about training; the same functions serve the tests.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from demo.corpus import Message, held_out_questions, render, training_dialogues
from demo.tokenizer import END_OF_TEXT_ID, TURN_END_ID

MODEL_FOLDER = Path(__file__).parent / "model"
MAX_ANSWER_TOKENS = 220

SKILLS = (
    "two-digit sums",
    "small sums",
    "follow-up sums",
    "sums of 3 or 4 numbers",
    "differences up to 99",
    "times tables to 10",
    "word problems",
    "comparing",
    "counting",
    "spelling",
    "spelling backwards",
    "letters of a word",
    "alphabet",
    "opposites",
    "animal sounds",
    "colours",
    "days and months",
    "repeating",
    "told facts",
    "remembered facts",
    "name from the system message",
    "small talk",
    "tiny stories",
    "knows its limits",
)


@dataclass(frozen=True)
class Answer:
    """What the model said, without its end-of-turn token, and whether it ended the turn itself."""

    text: str
    ended: bool
    num_tokens: int


def is_right(answer: Answer, expect: str) -> bool:
    """The expected text stands in the answer as whole words, and the model ended its turn."""
    return answer.ended and re.search(rf"(?<![\w-]){re.escape(expect)}(?![\w-])", answer.text) is not None


def load(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[LlamaForCausalLM, Tokenizer]:
    model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype)
    model.eval()  # type: ignore[no-untyped-call]
    return model, Tokenizer.from_file(str(folder / "tokenizer.json"))


@torch.inference_mode()
def answer_all(
    model: LlamaForCausalLM, tokenizer: Tokenizer, dialogues: list[list[Message]], *, batch_size: int = 64
) -> list[Answer]:
    """Greedy answers to the last message of each dialogue, in order. Batches are padded on the left."""
    prompts = [tokenizer.encode(render(dialogue, add_generation_prompt=True)).ids for dialogue in dialogues]
    generate: Any = model.generate  # typed by some versions of transformers, untyped by others
    answers: list[Answer] = []
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        width = max(map(len, batch))
        ids = torch.tensor(
            [[END_OF_TEXT_ID] * (width - len(prompt)) + prompt for prompt in batch], device=model.device
        )
        mask = torch.tensor(
            [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch], device=model.device
        )
        output = generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=MAX_ANSWER_TOKENS,
            do_sample=False,
            eos_token_id=TURN_END_ID,
            pad_token_id=END_OF_TEXT_ID,
        )
        for tokens in output[:, width:].tolist():
            ended = TURN_END_ID in tokens
            text_tokens = tokens[: tokens.index(TURN_END_ID)] if ended else tokens
            answers.append(Answer(tokenizer.decode(text_tokens), ended, len(text_tokens)))
    return answers


def earlier_chat(tokenizer: Tokenizer, num_tokens: int) -> list[Message]:
    """A dialogue of about `num_tokens` tokens; a question after it is asked far from the start."""
    dialogue = next(training_dialogues(seed=num_tokens, num_chars=4 * num_tokens))
    turns = [message for message in dialogue if message["role"] != "system"]
    while turns and len(tokenizer.encode(render(turns)).ids) > num_tokens:
        turns = turns[:-2]
    return turns


def after(earlier: list[Message], messages: list[Message]) -> list[Message]:
    """`messages` later in the same chat: a system message stays the first."""
    num_system = sum(message["role"] == "system" for message in messages)
    return [*messages[:num_system], *earlier, *messages[num_system:]]


@dataclass(frozen=True)
class Row:
    """One line of the card's table."""

    skill: str
    num_questions: int
    num_right: int
    num_ended: int
    example_question: str
    example_answer: str
    wrong: list[str]

    @property
    def accuracy(self) -> float:
        return self.num_right / self.num_questions


def measure(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    skill: str,
    *,
    number: int,
    seed: int = 0,
    before: list[Message] | None = None,
) -> Row:
    """One skill on `number` held-out questions, each after the messages `before` if given."""
    questions = held_out_questions(skill, number=number, seed=seed)
    answers = answer_all(model, tokenizer, [after(before or [], messages) for messages, _ in questions])
    rights = [is_right(answer, turn.expect) for answer, (_, turn) in zip(answers, questions, strict=True)]
    wrong = [
        f"{turn.user!r} -> {answer.text!r}, expected {turn.expect!r}"
        for right, answer, (_, turn) in zip(rights, answers, questions, strict=True)
        if not right
    ]
    ended = sum(answer.ended for answer in answers)
    return Row(skill, number, sum(rights), ended, questions[0][1].user, answers[0].text, wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER, help="folder of the checkpoint")
    parser.add_argument(
        "--number", type=int, default=100, help="questions a skill; sums get five times as many"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses the held-out questions")
    parser.add_argument("--after-tokens", type=int, default=0, help="put a chat of so many tokens before")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--show-wrong", type=int, default=0, help="wrong answers to print a skill")
    parser.add_argument("--skills", nargs="*", default=SKILLS, help="only these rows")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    model, tokenizer = load(arguments.model, getattr(torch, arguments.dtype))
    model.to(arguments.device)
    before = earlier_chat(tokenizer, arguments.after_tokens) if arguments.after_tokens else []
    began, rows = time.perf_counter(), []
    print("| skill | held-out questions | right | ends its turn |\n|---|---:|---:|---:|")
    for skill in arguments.skills:
        number = arguments.number * (5 if skill == "two-digit sums" else 1)
        row = measure(model, tokenizer, skill, number=number, seed=arguments.seed, before=before)
        rows.append(row)
        print(
            f"| {skill} | {number} | {100 * row.accuracy:.1f} % | {100 * row.num_ended / number:.1f} % |",
            flush=True,
        )
        for line in row.wrong[: arguments.show_wrong]:
            print("    ", line)
    print(f"{sum(row.num_questions for row in rows)} questions in {time.perf_counter() - began:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps([row.__dict__ for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
