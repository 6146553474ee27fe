"""Stop strings: found across borders, never shown, the earliest first."""

from hypothesis import given
from hypothesis import strategies as st

from gllm.frontend.stops import StopMatcher

texts = st.text("abc", max_size=40)
stop_lists = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=4)


def earliest(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The definition, by looking at every end."""
    for end in range(len(text) + 1):
        here = [stop for stop in stops if text[:end].endswith(stop)]
        if here:
            stop = max(here, key=len)
            return text[: end - len(stop)], stop
    return text, None


def run(pieces: list[str], stops: list[str]) -> tuple[list[str], str | None]:
    matcher = StopMatcher(stops)
    shown = []
    for piece in pieces:
        text, stop = matcher.feed(piece)
        shown.append(text)
        if stop is not None:
            return shown, stop
    return [*shown, matcher.finish()], None


@given(pieces=st.lists(texts, max_size=8), stops=stop_lists)
def test_the_earliest_stop_wins_however_the_text_is_cut(pieces: list[str], stops: list[str]) -> None:
    shown, stop = run(pieces, stops)
    assert ("".join(shown), stop) == earliest("".join(pieces), stops)


@given(text=texts, stops=stop_lists)
def test_what_was_shown_is_never_part_of_a_stop(text: str, stops: list[str]) -> None:
    """At each moment: what is shown may still become no stop string together with what follows."""
    expected, _ = earliest(text, stops)
    matcher = StopMatcher(stops)
    shown = ""
    for character in text:
        more, stop = matcher.feed(character)
        shown += more
        assert expected.startswith(shown)
        if stop is not None:
            return


@given(text=texts, stops=stop_lists)
def test_nothing_is_held_back_longer_than_needed(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    shown, stop = matcher.feed(text)
    if stop is None:
        held = text[len(shown) :]
        assert held == "" or any(one.startswith(held) and one != held for one in stops)


def test_a_stop_that_never_comes_is_given_back_at_the_end() -> None:
    matcher = StopMatcher(["<end>"])
    assert matcher.feed("the <en") == ("the ", None)
    assert matcher.finish() == "<en"


def test_time_is_linear_in_the_text() -> None:
    """A text that always almost matches a long stop string; quadratic would take minutes."""
    matcher = StopMatcher(["a" * 1000 + "b", "a" * 999 + "c"])
    for _ in range(300):
        matcher.feed("a" * 1000)
    assert matcher.feed("b")[1] == "a" * 1000 + "b"
