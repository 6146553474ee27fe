"""The skills with letters: spelling, spelling backwards, counting letters, the alphabet, repeating.

Held out by word, never by wording; only the alphabet, a small closed table, is held out by wording.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from string import ascii_lowercase

from demo.turn import Turn, pick, reword, wording
from demo.words import EXTRA_WORDS, LITTLE_WORDS, SPELLED_ALWAYS

SPELL_WORDINGS = (
    "Spell {w}.",
    "Spell the word {w}.",
    "How do you spell {w}?",
    "How is {w} spelled?",
    'Spell "{w}".',
    "Can you spell {w}?",
    "Please spell {w}.",
    "What are the letters of {w}?",
    "Spell {w} for me.",
    "How do I spell {w}?",
    "Spell '{w}'.",
    "Spell the word '{w}'.",
    "Can you spell the word {w}?",
    "Spelling of {w}?",
)
REPEAT_WORDINGS = (
    "Say {w}",
    "Repeat after me: {w}",
    "Repeat: {w}",
    "Please say {w}",
    "Say this: {w}",
    'Say "{w}"',
    "Repeat {w}",
)


def word_key(word: str) -> str:
    """Words that other skills use are never held out: they have tokens of their own, learned by heart."""
    return "always" if word in SPELLED_ALWAYS else f"word {word}"


def a_word(rng: Random) -> tuple[str, str]:
    """A word and its held-out key. A third are glued from pieces of two words: no table can hold them."""
    roll = rng.random()
    if roll < 0.25:
        word = pick(rng, SPELLED_ALWAYS)
    elif roll < 0.65:
        word = pick(rng, EXTRA_WORDS)
    else:
        front, back = pick(rng, SPELLED_ALWAYS + EXTRA_WORDS), pick(rng, SPELLED_ALWAYS + EXTRA_WORDS)
        word = front[: rng.randint(1, 4)] + back[-rng.randint(1, 4) :]
    return word, word_key(word)


def dashed(word: str) -> str:
    return "-".join(word)


def spell_turn(rng: Random, word: str, key: str) -> Turn:
    question = reword(rng, pick(rng, SPELL_WORDINGS).format(w=word))
    return Turn("spelling", question, f"{word} is spelled {dashed(word)}.", dashed(word), key)


def backwards_turn(rng: Random, word: str, key: str, wordings: tuple[str, ...]) -> Turn:
    reverse = dashed(word[::-1])
    question = reword(rng, pick(rng, wordings).format(w=word))
    return Turn(
        "spelling backwards", question, f"{dashed(word)} backwards is {reverse}.", f"is {reverse}", key
    )


def spell(rng: Random) -> list[Turn]:
    return [spell_turn(rng, *a_word(rng))]


def backwards(rng: Random) -> list[Turn]:
    wordings = (
        "Spell {w} backwards.",
        "How do you spell {w} backwards?",
        "What is {w} backwards?",
        "Reverse {w}.",
    )
    return [backwards_turn(rng, *a_word(rng), wordings)]


def letter_turn(rng: Random, word: str, key: str) -> Turn:
    kind = rng.randrange(3)
    if kind == 0:
        question = pick(
            rng,
            ("How many letters are in {w}?", "How many letters does {w} have?", "Count the letters of {w}."),
        )
        answer, expect = f"{dashed(word)} has {len(word)} letters.", f"has {len(word)}"
    elif kind == 1:
        question = pick(rng, ("What is the first letter of {w}?", "What letter does {w} start with?"))
        answer, expect = f"{word} starts with {word[0]}.", f"with {word[0]}"
    else:
        question = pick(rng, ("What is the last letter of {w}?", "What letter does {w} end with?"))
        answer, expect = f"{dashed(word)} ends with {word[-1]}.", f"with {word[-1]}"
    if len(word) == 1:
        answer = answer.replace("letters", "letter")
    return Turn("letters of a word", reword(rng, question.format(w=word)), answer, expect, key)


def letters(rng: Random) -> list[Turn]:
    return [letter_turn(rng, *a_word(rng))]


def spell_then_more(rng: Random) -> list[Turn]:
    """`Spell cat` and then `spell it backwards` or a question about its letters."""
    word, key = a_word(rng)
    turns = [spell_turn(rng, word, key)]
    if rng.random() < 0.6:
        wordings = ("Spell it backwards.", "And backwards?", "Now backwards.", "Now spell it backwards.")
        turns.append(backwards_turn(rng, word, key, wordings))
    else:
        turns.append(letter_turn(rng, word, key))
        turns[-1] = replace(turns[-1], user=turns[-1].user.replace(word, "it"))
    return turns


def alphabet(rng: Random) -> list[Turn]:
    roll = rng.random()
    if roll < 0.2:
        question = pick(
            rng,
            (
                "Say the alphabet.",
                "What is the alphabet?",
                "List the alphabet.",
                "Tell me the alphabet.",
                "The alphabet.",
                "Alphabet.",
            ),
        )
        answer = " ".join(ascii_lowercase) + "."
        return [wording("alphabet", rng, question, answer, answer)]
    place = rng.randint(0, 24)
    first, second = ascii_lowercase[place], ascii_lowercase[place + 1]
    if rng.random() < 0.7:
        question = pick(
            rng, ("What letter comes after {x}?", "Which letter is after {x}?", "What comes after {x}?")
        )
        return [
            wording(
                "alphabet",
                rng,
                question.format(x=pick(rng, (first, first.upper()))),
                f"{second} comes after {first}.",
                f"{second} comes",
            )
        ]
    question = pick(
        rng, ("What letter comes before {x}?", "Which letter is before {x}?", "What comes before {x}?")
    )
    return [
        wording(
            "alphabet",
            rng,
            question.format(x=pick(rng, (second, second.upper()))),
            f"{first} comes before {second}.",
            f"{first} comes",
        )
    ]


def repeat(rng: Random) -> list[Turn]:
    """Copying: one to six words, any words."""
    chosen = [a_word(rng) for _ in range(rng.randint(1, 6))]
    if rng.random() < 0.4:
        chosen += [(pick(rng, LITTLE_WORDS), "always") for _ in range(rng.randint(1, 4))]
        rng.shuffle(chosen)
    words = " ".join(word for word, _ in chosen)
    if rng.random() < 0.2:
        words = words[0].upper() + words[1:]
    question = pick(rng, REPEAT_WORDINGS)
    question = (question.lower() if rng.random() < 0.3 else question).format(w=words)
    shown = tuple(key for _, key in chosen)
    return [Turn("repeating", question, words, words, f"repeat {words}", shown=shown)]
