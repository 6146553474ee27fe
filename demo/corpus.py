"""Endless dialogues for the demo model, and the questions that training never sees.

Deterministic: the same seed gives the same dialogues on every machine. Knows the chat format (one place, so
that training, chat template and tests agree) but nothing about token ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from demo import skills_chat, skills_facts, skills_numbers, skills_spelling, skills_stories, skills_tables
from demo.turn import Skill, Turn, draw

Message = dict[str, str]


FILLERS: tuple[Skill, ...] = (
    skills_numbers.two_digit_sum,
    skills_spelling.spell,
    skills_chat.small_talk,
    skills_tables.days,
)


def remember(rng: Random) -> list[Turn]:
    """A fact is told, zero to four other turns pass, the fact is asked for."""
    told = skills_facts.tell(rng)
    between: list[Turn] = []
    for _ in range(rng.randint(0, 4)):
        between += draw(rng, rng.choice(FILLERS), held=False)
    kind, value = told[0].fact or ("", "")
    return [*told, *between, skills_facts.recall(rng, kind, value)]


# How often a skill is drawn. Two-digit sums are the promise of the card: they get the largest share.
WEIGHTS: dict[Skill, float] = {
    skills_numbers.two_digit_sum: 26,
    skills_numbers.small_sum: 6,
    skills_numbers.difference: 9,
    skills_numbers.times: 3,
    skills_numbers.follow_up_sum: 5,
    skills_numbers.long_sum: 4,
    skills_numbers.word_problem: 4,
    skills_numbers.compare: 4,
    skills_numbers.count: 6,
    skills_numbers.too_big: 2.5,
    skills_spelling.spell: 9,
    skills_spelling.backwards: 3,
    skills_spelling.letters: 4,
    skills_spelling.spell_then_more: 4,
    skills_spelling.alphabet: 1.5,
    skills_tables.opposite: 1.5,
    skills_tables.sound: 1,
    skills_tables.colour: 2,
    skills_tables.days: 3,
    skills_spelling.repeat: 3,
    skills_chat.small_talk: 5,
    skills_facts.tell: 2.5,
    remember: 3,
    skills_stories.story: 3,
    skills_chat.unknown: 5,
    skills_chat.statement: 1.5,
}

SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are a tiny demo model.",
    "You are a friendly assistant.",
    "You are Pip.",
    "Be short and polite.",
    "Answer the questions of the user.",
    "You are an assistant. Answer in one sentence.",
)


def message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def render(messages: list[Message], *, add_generation_prompt: bool = False) -> str:
    """The chat format. `CHAT_TEMPLATE` in tokenizer.py is its jinja2 twin; a test compares them."""
    text = "".join(f"<|im_start|>{m['role']}\n{m['content'].strip()}<|im_end|>\n" for m in messages)
    return text + ("<|im_start|>assistant\n" if add_generation_prompt else "")


def training_dialogue(rng: Random, *, num_chars: int) -> list[Message]:
    """One dialogue of at least `num_chars` characters, made of training-side turns only.

    Told facts are asked for again a few turns later; so is what was never told.
    """
    messages: list[Message] = []
    own_name = skills_chat.TOY_NAME
    roll = rng.random()
    if roll < 0.35:
        messages.append(message("system", rng.choice(SYSTEM_MESSAGES)))
    elif roll < 0.45:
        named, own_name = named_system(rng)
        messages.append(named)
    facts: dict[str, str] = {}
    skills, weights = list(WEIGHTS), list(WEIGHTS.values())
    length = 0
    while length < num_chars:
        roll = rng.random()
        if roll < 0.10 and facts:
            kind = rng.choice(list(facts))
            turns = [skills_facts.recall(rng, kind, facts[kind])]
        elif roll < 0.105 and "name" not in facts:
            turns = [skills_facts.recall(rng, "name", None)]
        elif roll < 0.16 and own_name != skills_chat.TOY_NAME:
            turns = [skills_chat.called(rng, own_name)]
        else:
            turns = draw(rng, rng.choices(skills, weights)[0], held=False)
        for turn in turns:
            if own_name not in turn.assistant and turn.assistant.startswith(f"I am {skills_chat.TOY_NAME},"):
                continue  # the system message has renamed the toy
            if turn.fact:
                facts[turn.fact[0]] = turn.fact[1]
            messages += [message("user", turn.user), message("assistant", turn.assistant)]
            length += len(turn.user) + len(turn.assistant) + 16
    return messages


def named_system(rng: Random) -> tuple[Message, str]:
    name = skills_facts.any_name(rng)
    text = rng.choice(("You are {n}.", "Your name is {n}.", "You are {n}, a friendly assistant."))
    return message("system", text.format(n=name)), name


def training_dialogues(seed: int, *, num_chars: int) -> Iterator[list[Message]]:
    rng = Random(seed)
    while True:
        yield training_dialogue(rng, num_chars=num_chars)


def held_out_questions(skill: str, *, number: int, seed: int) -> list[tuple[list[Message], Turn]]:
    """`number` questions of a row of the card's table that training never saw.

    Each is the messages up to the question, and the turn that tells the right answer.
    """
    rng = Random(f"{skill} {seed}")
    questions: list[tuple[list[Message], Turn]] = []
    while len(questions) < number:
        before: list[Message] = []
        if skill == "name from the system message":
            system, name = named_system(rng)
            before, turns = [system], [skills_chat.called(rng, name)]
        else:
            turns = draw(rng, rng.choice(list(WEIGHTS)), held=True)
        if turns[-1].skill == skill:
            for turn in turns[:-1]:
                before += [message("user", turn.user), message("assistant", turn.assistant)]
            questions.append(([*before, message("user", turns[-1].user)], turns[-1]))
    return questions
