"""Tiny stories of 60 to 150 tokens, put together from a few plots: long enough to watch them stream."""

from __future__ import annotations

from random import Random

from demo.skills_facts import any_name
from demo.skills_spelling import a_word
from demo.turn import Turn, pick, retype, with_articles, wordings
from demo.words import ANIMALS, COLOURS, PEOPLE, PLACES, THINGS

ASKED_ABOUT = wordings(
    "Tell me a story about {subject}. / Tell a story about {subject}. / Write a story about {subject}. "
    "/ I want a story about {subject}. / Tell me a tiny story about {subject}. "
    "/ A story about {subject}, please. "
    "/ Can you tell me a story about {subject}? / Do you know a story about {subject}?"
)
ASKED_FREELY = wordings(
    "Tell me a story. / Can you tell me a story? / Tell me a tiny story. / Write a story. / Another story. "
    "/ I want to hear a story. / Tell me another story. / A story, please. / Tell a story. "
    "/ Story. / Story please. / Once upon a time"
)
DAILY = wordings(
    "{name} lived near a {place} and liked to play. / {name} had a house in the {place}. "
    "/ Every day {name} went to the {place}."
)
PLOTS = (
    'One day {name} lost a {hue} {thing}. "Oh no, where is my {thing}?" said {name} and was sad. '
    "A kind {friend} came by and helped to look. They looked in the {place} all day. "
    "Then the {friend} saw the {hue} {thing} under a tree.",
    'One morning {name} found a {hue} {thing}. "Whose {thing} is this?" said {name}. '
    "{name} asked a {friend}, and the {friend} was very happy. "
    '"It is mine! Thank you!" said the {friend}. They had tea and cake in the {place}.',
    "One day {name} wanted a {hue} {thing}. But there was no {thing} in the {place}. "
    'A clever {friend} said: "Let us make one!" They worked all day and all night. '
    "In the morning there was a new {hue} {thing}.",
    "One night it was very dark and {name} could not find the way home. {name} was afraid and sat down. "
    "Then a {friend} came with a {hue} lamp. "
    '"Come with me," said the {friend}, and they walked together to the {place}.',
)
ENDINGS = wordings(
    "{name} and the {friend} were friends from that day on. "
    "/ {name} hugged the {friend} and went home happy. "
    '/ {name} smiled and said: "What a good day!"'
)


def story(rng: Random) -> list[Turn]:
    """The subject of the question, an animal or a name, is who the story is about."""
    hero, friend = rng.sample(ANIMALS if rng.random() < 0.5 else ANIMALS + PEOPLE, 2)
    if rng.random() < 0.15:
        hero = a_word(rng)[0]
    name = any_name(rng)
    intro = f"Once upon a time there was a little {hero} named {name}."
    roll = rng.random()
    if roll < 0.7:
        subject = f"a {hero}" if rng.random() < 0.75 else f"a {hero} and a {friend}"
        question, expect = with_articles(pick(rng, ASKED_ABOUT).replace("{subject}", subject)), hero
    elif roll < 0.85:
        question, expect = pick(rng, ASKED_ABOUT).replace("{subject}", name), name
        intro = f"Once upon a time there was a child named {name}."
    else:
        question, expect = pick(rng, ASKED_FREELY), "Once upon a time"
    text = " ".join((intro, pick(rng, DAILY), pick(rng, PLOTS), pick(rng, ENDINGS), "The end."))
    answer = text.format(
        name=name, friend=friend, place=pick(rng, PLACES), hue=pick(rng, COLOURS), thing=pick(rng, THINGS)
    )
    answer = with_articles(answer)
    question = question if name in question else retype(rng, question)
    return [Turn("tiny stories", question, answer, expect, f"story {question}")]
