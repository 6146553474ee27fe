"""What the skills of the demo corpus are made of: turns, the held-out split, surface variation.

A skill is a function from a random generator to a few turns. Knows nothing about any particular skill.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

HELD_OUT_PERCENT = 10


@dataclass(frozen=True)
class Turn:
    """One question and its answer.

    skill: the row of the card's table that this turn is measured in.
    expect: text that a right reply contains; `evaluate.is_right` says how it is looked for.
    key: what the held-out split hashes. Sums hash their numbers and spellings their word, whatever the
        wording; where the answers form a small closed table, the exact wording is hashed instead.
    shown: further keys whose facts the answer shows; they must be on the training side.
    fact: (kind, value) where the user tells something that may be asked for later.
    """

    skill: str
    user: str
    assistant: str
    expect: str
    key: str
    shown: tuple[str, ...] = ()
    fact: tuple[str, str] | None = None


Skill = Callable[[Random], list[Turn]]


def held_out(key: str) -> bool:
    """True for the tenth of all keys that training never sees. Stable across runs and machines."""
    return zlib.crc32(key.encode()) % 100 < HELD_OUT_PERCENT


def draw(rng: Random, skill: Skill, *, held: bool) -> list[Turn]:
    """Turns of one skill from one side of the split: for training no turn is held out, else the last one is.

    Earlier turns of a held-out group come from the training side, so that exactly one thing is new.
    """
    while True:
        turns = skill(rng)
        asked = turns[-1].key
        known = {turn.key for turn in turns} | {key for turn in turns for key in turn.shown}
        if held_out(asked) == held and not any(map(held_out, known - {asked})):
            return turns


def pick(rng: Random, options: Sequence[str]) -> str:
    return options[int(rng.random() * len(options))]


def wordings(text: str) -> tuple[str, ...]:
    """The phrases of a text, between " / ": tables of phrases read better without a quote around each."""
    return tuple(text.split(" / "))


def with_articles(text: str) -> str:
    """`a owl` becomes `an owl`."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def reword(rng: Random, question: str) -> str:
    """The same question as people type it: a `please`, a few words before it, lower or upper case."""
    roll = rng.random()
    asks = question.startswith(("What ", "What's ", "How ", "Which ", "Who "))
    if roll < 0.1 and asks:
        before = pick(rng, ("Tell me, ", "Hey, ", "So, ", "Ok, ", "Please tell me, "))
        question = before + question[0].lower() + question[1:]
    elif roll < 0.17 and asks:
        question = f"{question.rstrip('?')}{pick(rng, (' please', ', please'))}?"
    return question.upper() if rng.random() < 0.03 else retype(rng, question)


def retype(rng: Random, question: str) -> str:
    """Lower case and no final mark, each now and then."""
    if rng.random() < 0.4:
        question = question.lower()
    if rng.random() < 0.45:
        question = question.rstrip(".?!")
    return question


def wording(skill: str, rng: Random, question: str, answer: str, expect: str) -> Turn:
    """A turn whose held-out key is its exact wording."""
    question = reword(rng, question)
    return Turn(skill, question, answer, expect, question)
