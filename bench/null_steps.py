"""What a worker that computes nothing answers, and when: the same for ours and for another engine's.

Its tokens tell when they were made: who makes one takes the word that the clock is at, who reads the word
looks at the same clock, the system's monotonic one. The words come round again after 75 ms, so ages are
known up to that. The time of a step lies in a file that processes share, so that one deployment can be
measured at several rates. Knows nothing of engines, tokenizers or sockets.
"""

import mmap
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

TICK_NS = 250_000
NUM_WORDS = 300
WORD = re.compile(rb" [a-z]+")

TOKENS = "GLLM_BENCH_TOKENS"  # the environment: token ids, separated by commas
STEP_FILE = "GLLM_BENCH_STEP_FILE"


def words_of(pieces: Sequence[bytes]) -> dict[str, int]:
    """Words that are one token each, with their ids. pieces: the bytes of every token.

    Each begins with its only space, so that the text of several can be taken apart again. Raises
    ValueError if a vocabulary has too few.
    """
    found = {piece.decode(): token for token, piece in enumerate(pieces) if WORD.fullmatch(piece)}
    if len(found) < NUM_WORDS:
        raise ValueError(f"{len(found)} tokens of this vocabulary are words: {NUM_WORDS} are needed")
    return dict(list(found.items())[:NUM_WORDS])


def age_ns(place: int, now_ns: int) -> int:
    """How old the token at this place is; up to one tick too much."""
    return (now_ns - place * TICK_NS) % (NUM_WORDS * TICK_NS)


class NullSteps:
    """The steps of a device that computes nothing: when each ends, and the token that all its rows get."""

    def __init__(self, step_file: Path, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        with step_file.open("r+b") as file:
            self._step_ns = mmap.mmap(file.fileno(), 8)
        self._ended_ns = time.monotonic_ns()

    @classmethod
    def of_environment(cls) -> "NullSteps":
        """As the bench started this process."""
        tokens = [int(token) for token in os.environ[TOKENS].split(",")]
        return cls(Path(os.environ[STEP_FILE]), tokens)

    def last(self, step_s: float) -> None:
        """Let steps last so long from now on, in every process that has this file."""
        self._step_ns[:] = int(step_s * 1e9).to_bytes(8, "little")

    def end_ns(self) -> int:
        """When the step that begins now, or behind the last one, will be over.

        By the clock, not by the length of a sleep: the steps of a device do not drift either.
        """
        step_ns = int.from_bytes(self._step_ns[:], "little")
        self._ended_ns = max(self._ended_ns + step_ns, time.monotonic_ns())
        return self._ended_ns

    def token(self) -> int:
        """The token of a step that is over now."""
        return self._tokens[time.monotonic_ns() // TICK_NS % NUM_WORDS]


def sleep_until(due_ns: int) -> None:
    if (left_ns := due_ns - time.monotonic_ns()) > 0:
        time.sleep(left_ns / 1e9)
