"""The skills with numbers: sums, differences, times tables, comparing, counting.

Every answer is computed here; the held-out key is the numbers (unordered for a sum), never the wording.
"""

from __future__ import annotations

from random import Random

from demo.turn import Turn, pick, reword, wording
from demo.words import NAMES, NUMBER_WORDS, TENS, THINGS

SUM_WORDINGS = (
    "What is {a} + {b}?",
    "What is {a} plus {b}?",
    "How much is {a} + {b}?",
    "How much is {a} plus {b}?",
    "Add {a} and {b}.",
    "{a} + {b}",
    "{a}+{b}",
    "{a}+{b}=",
    "{a} + {b} =",
    "{a} + {b} = ?",
    "{a} plus {b}?",
    "What's {a}+{b}?",
    "What is {a}+{b}?",
    "Calculate {a} + {b}.",
    "What is the sum of {a} and {b}?",
    "Sum {a} and {b}.",
    "How much do {a} and {b} make?",
    "What is {a} and {b}?",
    "{a} and {b}?",
    "Can you add {a} and {b}?",
)

DIFFERENCE_WORDINGS = (
    "What is {a} - {b}?",
    "What is {a} minus {b}?",
    "How much is {a} - {b}?",
    "How much is {a} minus {b}?",
    "{a} - {b}",
    "{a}-{b}",
    "{a}-{b}=",
    "{a} - {b} =",
    "Subtract {b} from {a}.",
    "Take {b} away from {a}.",
    "What's {a}-{b}?",
    "Calculate {a} - {b}.",
)

TIMES_WORDINGS = (
    "What is {a} times {b}?",
    "What is {a} x {b}?",
    "What is {a} * {b}?",
    "How much is {a} times {b}?",
    "{a} * {b}",
    "{a} x {b}",
    "{a}*{b}",
    "{a} times {b}?",
    "Multiply {a} and {b}.",
    "Multiply {a} by {b}.",
    "{a} x {b} =",
    "What's {a} * {b}?",
)


def sum_key(a: int, b: int) -> str:
    """One key for both orders: a sum is held out together with its mirror image."""
    return f"sum {min(a, b)} {max(a, b)}"


def sum_turn(skill: str, question: str, a: int, b: int) -> Turn:
    return Turn(skill, question, f"{a} + {b} = {a + b}.", f"= {a + b}", sum_key(a, b))


def difference_turn(skill: str, question: str, a: int, b: int) -> Turn:
    return Turn(skill, question, f"{a} - {b} = {a - b}.", f"= {a - b}", f"difference {a} {b}")


def number_word(number: int) -> str:
    """0 to 99 in English."""
    if number < 20:
        return NUMBER_WORDS[number]
    tens, ones = divmod(number, 10)
    return TENS[tens] + (f"-{NUMBER_WORDS[ones]}" if ones else "")


def two_digit_sum(rng: Random) -> list[Turn]:
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    in_words = rng.random() < 0.04
    text_a, text_b = (number_word(a), number_word(b)) if in_words else (str(a), str(b))
    question = pick(rng, SUM_WORDINGS).format(a=text_a, b=text_b)
    return [sum_turn("two-digit sums", reword(rng, question), a, b)]


def small_sum(rng: Random) -> list[Turn]:
    """At least one number below ten; sometimes both as words."""
    a, b = rng.randint(0, 9), rng.randint(0, 99)
    if rng.random() < 0.5:
        a, b = b, a
    text_a, text_b = str(a), str(b)
    if rng.random() < (0.5 if max(a, b) <= 12 else 0.1):
        text_a, text_b = number_word(a), number_word(b)
    question = pick(rng, SUM_WORDINGS).format(a=text_a, b=text_b)
    return [sum_turn("small sums", reword(rng, question), a, b)]


def difference(rng: Random) -> list[Turn]:
    a, b = rng.randint(0, 99), rng.randint(0, 99)
    if rng.random() < 0.8:
        a, b = max(a, b), min(a, b)
    question = pick(rng, DIFFERENCE_WORDINGS).format(a=a, b=b)
    return [difference_turn("differences up to 99", reword(rng, question), a, b)]


def times(rng: Random) -> list[Turn]:
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    question = pick(rng, TIMES_WORDINGS).format(a=a, b=b)
    return [wording("times tables to 10", rng, question, f"{a} x {b} = {a * b}.", f"= {a * b}")]


def follow_up_sum(rng: Random) -> list[Turn]:
    """A sum, then `and plus 3?` about its result."""
    a, b = rng.randint(1, 60), rng.randint(1, 30)
    turns = [sum_turn("small sums", reword(rng, pick(rng, SUM_WORDINGS).format(a=a, b=b)), a, b)]
    total = a + b
    for _ in range(rng.choice((1, 1, 2))):
        c = rng.randint(1, 20)
        if rng.random() < 0.65 or total < c:
            question = pick(
                rng, ("And plus {c}?", "Plus {c}?", "Now add {c}.", "Add {c} to that.", "And {c} more?")
            )
            turns.append(sum_turn("follow-up sums", reword(rng, question.format(c=c)), total, c))
            total += c
        else:
            question = pick(
                rng, ("And minus {c}?", "Minus {c}?", "Now subtract {c}.", "Take away {c} from that.")
            )
            turns.append(difference_turn("follow-up sums", reword(rng, question.format(c=c)), total, c))
            total -= c
        if total > 99:
            break
    return turns


def long_sum(rng: Random) -> list[Turn]:
    """Three or four numbers, every step written out: the model needs no hidden memory for the totals."""
    numbers = [
        rng.randint(1, 50),
        rng.randint(1, 30),
        *(rng.randint(1, 19) for _ in range(rng.choice((1, 1, 1, 2)))),
    ]
    phrase = pick(
        rng,
        ("What is {sum}?", "{sum}", "How much is {sum}?", "{sum} =", "Add {list}.", "{tight}", "{tight}="),
    )
    texts = [str(number) for number in numbers]
    comma_list = f"{', '.join(texts[:-1])} and {texts[-1]}"
    question = phrase.format(sum=" + ".join(texts), tight="+".join(texts), list=comma_list)
    steps, keys, total = [], [], numbers[0]
    for number in numbers[1:]:
        steps.append(f"{total} + {number} = {total + number}")
        keys.append(sum_key(total, number))
        total += number
    answer = ", and ".join(steps) + "."
    shown = tuple(keys[:-1])
    return [
        Turn("sums of 3 or 4 numbers", reword(rng, question), answer, f"= {total}.", keys[-1], shown=shown)
    ]


def word_problem(rng: Random) -> list[Turn]:
    a, b = rng.randint(2, 60), rng.randint(2, 39)
    who, thing = pick(rng, ("I", "I", *NAMES)), pick(rng, THINGS)
    things = thing + ("es" if thing.endswith("x") else "s")
    has, gets, do = ("have", "get", "do") if who == "I" else ("has", "gets", "does")
    owner = "You have" if who == "I" else f"{who} has"
    if rng.random() < 0.6 or a <= b:
        verb = pick(rng, (gets, "find" if who == "I" else "finds", "buy" if who == "I" else "buys"))
        question = f"{who} {has} {a} {things} and {verb} {b} more. How many {things} {do} {who} have?"
        answer, total, key = f"{a} + {b} = {a + b}.", a + b, sum_key(a, b)
    else:
        verb = pick(rng, ("lose" if who == "I" else "loses", "give away" if who == "I" else "gives away"))
        question = f"{who} {has} {a} {things} and {verb} {b}. How many {things} {do} {who} have?"
        answer, total, key = f"{a} - {b} = {a - b}.", a - b, f"difference {a} {b}"
    return [Turn("word problems", question, f"{answer} {owner} {total} {things}.", f"= {total}", key)]


def compare(rng: Random) -> list[Turn]:
    a, b = rng.sample(range(100), 2)
    big = rng.random() < 0.6
    word = pick(rng, ("bigger", "larger", "greater", "more")) if big else pick(rng, ("smaller", "less"))
    question = pick(
        rng, ("Which is {w}, {a} or {b}?", "What is {w}: {a} or {b}?", "Which number is {w}, {a} or {b}?")
    )
    right, other = (max(a, b), min(a, b)) if big else (min(a, b), max(a, b))
    answer = f"{right} is {'bigger' if big else 'smaller'} than {other}."
    key = f"compare {min(a, b)} {max(a, b)}"
    return [Turn("comparing", reword(rng, question.format(w=word, a=a, b=b)), answer, f"{right} is", key)]


def count(rng: Random) -> list[Turn]:
    """Up, down, or in steps: the answer is long enough to watch it stream."""
    kind = rng.random()
    start = rng.choice((1, 1, rng.randint(0, 20), rng.randint(0, 90)))
    end = min(99, start + rng.randint(2, 30))
    numbers = list(range(start, end + 1))
    if kind < 0.65:
        phrases = [
            "Count from {a} to {b}.",
            "Count {a} to {b}.",
            "Count from {a} up to {b}.",
            "Count from {a}-{b}.",
        ]
        if start == 1:
            phrases += ["Count to {b}.", "Count up to {b}.", "Can you count to {b}?", "Please count to {b}."]
        question = pick(rng, phrases)
    elif kind < 0.88:
        numbers.reverse()
        phrases = ["Count down from {b} to {a}.", "Count from {b} to {a}.", "Count from {b} down to {a}."]
        if start in (0, 1):
            phrases += ["Count down from {b}.", "Count backwards from {b}."]
            numbers = list(range(end, 0, -1))
            start = 1
        question = pick(rng, phrases)
    else:
        step = rng.choice((2, 2, 5, 10))
        end = step + step * rng.randint(3, 8)
        start, numbers = step, list(range(step, end + 1, step))
        name = {2: ("twos", "2"), 5: ("fives", "5"), 10: ("tens", "10")}[step]
        question = f"Count by {pick(rng, name)} {pick(rng, ('from {a} to {b}.', 'to {b}.', 'up to {b}.'))}"
    in_words = rng.random() < 0.12 and end <= 20
    a, b = (number_word(start), number_word(end)) if in_words else (str(start), str(end))
    answer = ", ".join(map(str, numbers)) + "."
    key = f"count {numbers[0]} {numbers[1]} {numbers[-1]}"
    return [Turn("counting", reword(rng, question.format(a=a, b=b)), answer, answer, key)]


def too_big(rng: Random) -> list[Turn]:
    """Numbers beyond the toy: say so rather than guess."""
    if rng.random() < 0.3:
        a, b = rng.randint(11, 120), rng.choice((rng.randint(0, 10), rng.randint(11, 120)))
        phrase, limit = pick(rng, TIMES_WORDINGS), "I know the times tables up to 10."
    else:
        a = rng.choice((rng.randint(100, 130), rng.randint(100, 999), rng.randint(1000, 99999)))
        b = rng.choice((rng.randint(0, 99), rng.randint(0, 9999)))
        phrase = pick(rng, SUM_WORDINGS if rng.random() < 0.6 else DIFFERENCE_WORDINGS)
        limit = "I can add numbers up to 99."
    if rng.random() < 0.5:
        a, b = b, a
    answer = f"These numbers are too big for me. {limit}"
    return [wording("knows its limits", rng, phrase.format(a=a, b=b), answer, "too big")]
