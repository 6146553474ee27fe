"""What some sequences ask of their logits: by slot, and as the packed inputs of one step.

A batch whose rows ask for nothing costs one look into an empty dictionary. Knows what a request may ask
(`protocol/logits.py`) and how the operators want it; changes no logits, owns nothing on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gllm.protocol.logits import MAX_BAD_WORD_TOKENS, Shaping

Ints = npt.NDArray[np.int64]

WINDOW = MAX_BAD_WORD_TOKENS - 1  # recent tokens that complete a bad word


@dataclass(frozen=True, slots=True)
class Allowed:
    """Arguments of `apply_masks`."""

    rows: Tensor
    bits: Tensor


@dataclass(frozen=True, slots=True)
class Words:
    """Arguments of `ban_words`; and where the token of each such row goes into the table of recent ones."""

    rows: Tensor
    slots: Tensor
    position: Tensor
    words: Tensor
    kept_rows: Tensor  # int64 [rows with words]
    kept_slots: Tensor
    kept_places: Tensor


@dataclass(frozen=True, slots=True)
class Added:
    """Arguments of `add_to_logits`."""

    rows: Tensor
    tokens: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Penalties:
    """Arguments of `penalize`, but for the counts."""

    rows: Tensor
    slots: Tensor
    repetition: Tensor
    frequency: Tensor
    presence: Tensor


@dataclass(frozen=True, slots=True)
class ShapedRows:
    """What changes the logits of a step's sampling rows, each part None where no row asks for it."""

    allowed: Allowed | None
    words: Words | None
    added: Added | None
    penalties: Penalties | None
    log_min_p: Tensor | None  # float32 [num_sampling]


@dataclass(frozen=True, slots=True)
class Entered:
    """A sequence that entered a slot and needs its row of the device's tables."""

    slot: int
    tokens: npt.NDArray[np.int32]
    num_prompt_tokens: int
    counts: bool  # of its tokens, for penalties
    recent: bool  # tokens, for bad words


@dataclass(frozen=True, slots=True)
class _Asked:
    """One sequence's shaping, prepared."""

    bits: npt.NDArray[np.int32] | None  # of the allowed tokens
    words: npt.NDArray[np.int32] | None  # [num_words, length]
    bias_tokens: Ints
    biases: npt.NDArray[np.float32]
    banned: Ints
    min_tokens: int
    penalties: tuple[float, float, float] | None
    log_min_p: np.float32

    @classmethod
    def of(cls, shaping: Shaping, vocab_size: int) -> "_Asked":
        penalties = shaping.repetition_penalty, shaping.frequency_penalty, shaping.presence_penalty
        with np.errstate(divide="ignore"):
            log_min_p = np.log(np.float32(shaping.min_p))
        return cls(
            bits=_bits(shaping.allowed_token_ids, vocab_size) if shaping.allowed_token_ids else None,
            words=_flush_right(shaping.bad_words) if shaping.bad_words else None,
            bias_tokens=_ints(shaping.bias_token_ids),
            biases=np.frombuffer(shaping.biases, np.float32),
            banned=_ints(shaping.banned_ends),
            min_tokens=shaping.min_tokens,
            penalties=None if penalties == (1.0, 0.0, 0.0) else penalties,
            log_min_p=log_min_p,
        )


@dataclass(slots=True)
class SlotShapings:
    """The shaping of the sequence in each slot; most have none."""

    vocab_size: int
    _asked: dict[int, _Asked] = field(default_factory=dict)
    _entered: list[Entered] = field(default_factory=list)

    def enter(
        self, slot: int, shaping: Shaping, tokens: npt.NDArray[np.int32], num_prompt_tokens: int
    ) -> None:
        """A sequence with `shaping` is in `slot` now; raises `ValueError` for ids beyond the vocabulary."""
        ids = [shaping.bias_token_ids, shaping.allowed_token_ids, shaping.banned_ends, *shaping.bad_words]
        if any(max(column, default=0) >= self.vocab_size for column in ids):
            raise ValueError(f"the shaping of slot {slot} names a token beyond the {self.vocab_size} known")
        asked = self._asked[slot] = _Asked.of(shaping, self.vocab_size)
        counts, recent = asked.penalties is not None, asked.words is not None
        if counts or recent:
            self._entered.append(Entered(slot, tokens, num_prompt_tokens, counts, recent))

    def leave(self, slots: Ints) -> None:
        """Whatever was in `slots` is there no more."""
        if self._asked:
            for slot in slots.tolist():
                self._asked.pop(slot, None)

    def take_entered(self) -> Sequence[Entered]:
        """Those that entered since the last call: the step writes their rows before it uses them."""
        entered, self._entered = self._entered, []
        return entered

    def rows(self, slots: Ints, position: Ints, num_generated: Ints) -> ShapedRows | None:
        """The packed inputs for sampling rows of `slots`, each about to draw the token at `position`."""
        if not self._asked:
            return None
        found = [(row, asked) for row, slot in enumerate(slots.tolist()) if (asked := self._asked.get(slot))]
        if not found:
            return None
        return ShapedRows(
            allowed=_allowed(found),
            words=_words(found, slots, position),
            added=_added(found, num_generated),
            penalties=_penalties(found, slots),
            log_min_p=_log_min_p(found, len(slots)),
        )


_Found = list[tuple[int, _Asked]]  # sampling rows with shaping


def _allowed(found: _Found) -> Allowed | None:
    masked = [(row, asked.bits) for row, asked in found if asked.bits is not None]
    if not masked:
        return None
    return Allowed(
        _tensor([row for row, _ in masked]), torch.from_numpy(np.stack([bits for _, bits in masked]))
    )


def _words(found: _Found, slots: Ints, position: Ints) -> Words | None:
    worded = [(row, asked.words) for row, asked in found if asked.words is not None]
    if not worded:
        return None
    length = max(words.shape[1] for _, words in worded)
    padded = [np.pad(w, ((0, 0), (length - w.shape[1], 0)), constant_values=-1) for _, w in worded]
    kept = np.array([row for row, _ in worded])
    rows = np.repeat(kept, [len(words) for _, words in worded])
    return Words(
        rows=torch.from_numpy(rows),
        slots=torch.from_numpy(slots[rows]),
        position=torch.from_numpy(position[rows]),
        words=torch.from_numpy(np.concatenate(padded)),
        kept_rows=torch.from_numpy(kept),
        kept_slots=torch.from_numpy(slots[kept]),
        kept_places=torch.from_numpy(position[kept] % WINDOW),
    )


def _added(found: _Found, num_generated: Ints) -> Added | None:
    rows, tokens, values = [], [], []
    for row, asked in found:
        banned = asked.banned if num_generated[row] < asked.min_tokens else asked.banned[:0]
        number = len(asked.bias_tokens) + len(banned)
        if number:
            rows.append(np.full(number, row))
            tokens += [asked.bias_tokens, banned]
            values += [asked.biases, np.full(len(banned), float("-inf"), np.float32)]
    if not rows:
        return None
    return Added(*(torch.from_numpy(np.concatenate(parts)) for parts in (rows, tokens, values)))


def _penalties(found: _Found, slots: Ints) -> Penalties | None:
    penalized = [(row, asked.penalties) for row, asked in found if asked.penalties is not None]
    if not penalized:
        return None
    rows = np.array([row for row, _ in penalized])
    factors = torch.tensor([factors for _, factors in penalized], dtype=torch.float32).T.contiguous()
    return Penalties(torch.from_numpy(rows), torch.from_numpy(slots[rows]), *factors)


def _log_min_p(found: _Found, num_rows: int) -> Tensor | None:
    if all(asked.log_min_p == -np.inf for _, asked in found):
        return None
    column = np.full(num_rows, -np.inf, np.float32)
    for row, asked in found:
        column[row] = asked.log_min_p
    return torch.from_numpy(column)


def _bits(token_ids: "Sequence[int]", vocab_size: int) -> npt.NDArray[np.int32]:
    allowed = np.zeros(32 * -(-vocab_size // 32), np.uint8)
    allowed[np.asarray(token_ids)] = 1
    return np.packbits(allowed, bitorder="little").view("<i4").astype(np.int32)


def _flush_right(words: "Sequence[Sequence[int]]") -> npt.NDArray[np.int32]:
    length = max(map(len, words))
    return np.array([[-1] * (length - len(word)) + list(word) for word in words], np.int32)


def _ints(column: "Sequence[int]") -> Ints:
    return np.asarray(column, np.int64)


def _tensor(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
