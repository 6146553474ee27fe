"""Facts that the user tells and asks for later: name, favourite colour, pet, age.

Only telling and asking; the corpus decides how much lies between the two.
"""

from __future__ import annotations

from random import Random

from demo.skills_spelling import a_word
from demo.turn import Turn, pick, retype, reword, with_articles, wordings
from demo.words import ANIMALS, COLOURS, NAMES

FACT_TOLD = {
    "name": wordings(
        "My name is {v}. / I am {v}. / I'm {v}. / Hi, I am {v}. / Hello, my name is {v}. / Call me {v}. / "
        "You can call me {v}.",
    ),
    "favourite colour": wordings(
        "My favourite colour is {v}. / My favorite color is {v}. / I like the colour {v} most.",
    ),
    "pet": wordings(
        "I have a {v}. / My pet is a {v}. / I have a pet {v}.",
    ),
    "age": wordings(
        "I am {v} years old. / My age is {v}. / I'm {v} years old.",
    ),
}
FACT_HEARD = {
    "name": "Nice to meet you, {v}!",
    "favourite colour": "I like {v}, too!",
    "pet": "A {v} is a nice pet!",
    "age": "You are {v}, nice!",
}
FACT_ASKED = {
    "name": wordings(
        "What is my name? / Do you remember my name? / Who am I? / What's my name? / What am I called? / Do "
        "you know my name? / Say my name.",
    ),
    "favourite colour": wordings(
        "What is my favourite colour? / What is my favorite color? / What colour do I like most?",
    ),
    "pet": wordings(
        "What is my pet? / What pet do I have? / Which animal do I have?",
    ),
    "age": wordings(
        "How old am I? / What is my age?",
    ),
}
FACT_RECALLED = {
    "name": "Your name is {v}.",
    "favourite colour": "Your favourite colour is {v}.",
    "pet": "You have a {v}.",
    "age": "You are {v} years old.",
}


def made_up_name(rng: Random) -> str:
    syllables = [pick(rng, "bdfgklmnprstvz") + pick(rng, "aeiou") for _ in range(rng.randint(1, 3))]
    return ("".join(syllables) + pick(rng, ("", "", "n", "l", "r", "s"))).capitalize()


def any_name(rng: Random) -> str:
    roll = rng.random()
    if roll < 0.4:
        return pick(rng, NAMES)
    return made_up_name(rng) if roll < 0.7 else a_word(rng)[0].capitalize()


def tell(rng: Random) -> list[Turn]:
    """The user tells a fact. The corpus asks for it later in the dialogue, see `recall`."""
    kind = pick(rng, ("name", "name", "name", "favourite colour", "pet", "age"))
    value = {"name": any_name(rng), "favourite colour": pick(rng, COLOURS), "pet": pick(rng, ANIMALS)}.get(
        kind, str(rng.randint(3, 90))
    )
    question = with_articles(retype(rng, pick(rng, FACT_TOLD[kind])).replace("{v}", value))
    if kind == "name" and rng.random() < 0.15:
        question, value = question.lower(), value.lower()
    answer = with_articles(FACT_HEARD[kind].format(v=value))
    return [Turn("told facts", question, answer, value, fact_key(kind, value), fact=(kind, value))]


def fact_key(kind: str, value: str) -> str:
    """Names and ages are held out by value; the few pets and colours never are."""
    return f"fact {value}" if kind in ("name", "age") else "always"


def recall(rng: Random, kind: str, value: str | None) -> Turn:
    """Ask for a fact; `value` None: it was never told in this dialogue."""
    question = reword(rng, pick(rng, FACT_ASKED[kind]))
    if value is None:
        return Turn(
            "remembered facts", question, "You have not told me yet.", "not told", f"untold {question}"
        )
    answer = with_articles(FACT_RECALLED[kind].format(v=value))
    return Turn("remembered facts", question, answer, value, fact_key(kind, value))
