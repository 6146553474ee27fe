"""The skills of small closed tables: opposites, animal sounds, colours, days, months and seasons.

There is nothing to generalise but the wording, so that is what the held-out split hashes.
"""

from __future__ import annotations

from random import Random

from demo.turn import Turn, pick, with_articles, wording
from demo.words import COLOUR_MIX, COLOUR_OF, COLOURS, DAYS, MONTHS, NUMBER_WORDS, OPPOSITES, SEASONS, SOUNDS


def opposite(rng: Random) -> list[Turn]:
    word = pick(rng, tuple(OPPOSITES))
    wordings = (
        "What is the opposite of {w}?",
        "Opposite of {w}?",
        "Tell me the opposite of {w}.",
        "What's the opposite of {w}?",
    )
    question = pick(rng, wordings).format(w=word)
    return [
        wording("opposites", rng, question, f"The opposite of {word} is {OPPOSITES[word]}.", OPPOSITES[word])
    ]


def sound(rng: Random) -> list[Turn]:
    animal = pick(rng, tuple(SOUNDS))
    wordings = (
        "What does a {w} say?",
        "What sound does a {w} make?",
        "How does a {w} sound?",
        "What does the {w} say?",
    )
    question = with_articles(pick(rng, wordings).format(w=animal))
    return [wording("animal sounds", rng, question, f"The {animal} says {SOUNDS[animal]}.", SOUNDS[animal])]


def colour(rng: Random) -> list[Turn]:
    word = pick(rng, ("colour", "color"))
    roll = rng.random()
    if roll < 0.65:
        thing = pick(rng, tuple(COLOUR_OF))
        question = pick(
            rng,
            ("What {c} is {t}?", "Which {c} is {t}?", "What is the {c} of {t}?", "Tell me the {c} of {t}."),
        )
        answer = f"{thing[0].upper()}{thing[1:]} is {COLOUR_OF[thing]}."
        return [wording("colours", rng, question.format(c=word, t=thing), answer, COLOUR_OF[thing])]
    if roll < 0.85:
        pair = rng.choice(list(COLOUR_MIX))
        a, b = pair if rng.random() < 0.5 else pair[::-1]
        question = pick(
            rng,
            ("What {c} do {a} and {b} make?", "What do you get if you mix {a} and {b}?", "Mix {a} and {b}."),
        )
        mixed = COLOUR_MIX[pair]
        return [
            wording(
                "colours",
                rng,
                question.format(c=word, a=a, b=b),
                f"{a} and {b} make {mixed}.".capitalize(),
                mixed,
            )
        ]
    number = rng.randint(2, 5)
    some = ", ".join(COLOURS[:number])
    question = pick(rng, ("Name {n} {c}s.", "Tell me {n} {c}s.", "List {n} {c}s.", "Give me {n} {c}s."))
    return [
        wording(
            "colours",
            rng,
            question.format(n=NUMBER_WORDS[number], c=word),
            f"{number} colours: {some}.",
            some,
        )
    ]


def days(rng: Random) -> list[Turn]:
    """Next and previous days and months, and the whole lists."""
    kind, names = ("day", DAYS) if rng.random() < 0.6 else ("month", MONTHS)
    roll = rng.random()
    if roll < 0.2:
        question = pick(
            rng,
            (
                "What are the {k}s?",
                "List the {k}s of the {p}.",
                "Name the {k}s of the {p}.",
                "Tell me the {k}s.",
                "{k}s of the {p}.",
                "The {k}s of the {p}.",
                "{k}s.",
            ),
        )
        answer = ", ".join(names) + "."
        return [
            wording(
                "days and months",
                rng,
                question.format(k=kind, p="week" if kind == "day" else "year"),
                answer,
                answer,
            )
        ]
    if roll < 0.3:
        question, answer = rng.choice(
            [
                ("How many days are in a week?", "A week has 7 days."),
                ("How many months are in a year?", "A year has 12 months."),
                ("What are the seasons?", f"The seasons are {', '.join(SEASONS[:3])} and {SEASONS[3]}."),
                ("How many seasons are there?", "There are 4 seasons."),
                ("How many hours are in a day?", "A day has 24 hours."),
                ("How many minutes are in an hour?", "An hour has 60 minutes."),
            ]
        )
        return [wording("days and months", rng, question, answer, answer)]
    at = rng.randrange(len(names))
    if rng.random() < 0.6:
        other, relation = names[(at + 1) % len(names)], "after"
    else:
        other, relation = names[at - 1], "before"
    question = pick(
        rng,
        (
            "What {k} comes {r} {n}?",
            "Which {k} is {r} {n}?",
            "What is the {k} {r} {n}?",
            "What comes {r} {n}?",
        ),
    )
    answer = f"{other} comes {relation} {names[at]}."
    turns = [
        wording(
            "days and months", rng, question.format(k=kind, r=relation, n=names[at]), answer, f"{other} comes"
        )
    ]
    if rng.random() < 0.25 and relation == "after":
        third = names[(at + 2) % len(names)]
        question = pick(
            rng, ("And after that?", f"And the {kind} after that?", "And then?", "What comes next?")
        )
        turns.append(
            wording("days and months", rng, question, f"{third} comes after {other}.", f"{third} comes")
        )
    return turns
