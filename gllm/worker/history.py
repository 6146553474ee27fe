"""What was generated in each slot, on the device: for penalties and bad words.

Two tables by slot, each allocated when the first sequence needs it. Written in stream order: a row when
its sequence enters, and a token behind each draw, which no host has seen yet; so several steps may be
under way, and a slot may change hands between them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gllm.kernels.dispatch import Operators
from gllm.kernels.reference_logits import IN_PROMPT
from gllm.worker.shaping import WINDOW, Entered, ShapedRows


class History:
    """The tables; their meaning is documented at `penalize` and `ban_words` in `kernels/reference_logits.py`.

    counts: int32 [num_slots, vocab]; recent: int32 [num_slots, WINDOW]; None until somebody needs them.
    """

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self._num_slots = num_slots
        self._vocab_size = vocab_size
        self._device = device
        self.counts: Tensor | None = None
        self.recent: Tensor | None = None

    def enter(self, entered: Sequence[Entered]) -> None:
        """Write the rows of sequences that entered: whatever a former one left there is gone."""
        for item in entered:
            if item.counts:
                if self.counts is None:
                    self.counts = self._table(self._vocab_size)
                self.counts[item.slot] = self._on_device(self._counts_of(item))
            if item.recent:
                if self.recent is None:
                    self.recent = self._table(WINDOW)
                self.recent[item.slot] = self._on_device(_recent_of(item))

    def shape(self, operators: Operators, logits: Tensor, shaped: ShapedRows) -> None:
        """Change `logits` as `shaped` says, in the order that `kernels/reference_logits.py` documents."""
        if shaped.allowed is not None:
            operators.apply_masks(logits, shaped.allowed.rows, shaped.allowed.bits)
        if shaped.words is not None:
            assert self.recent is not None
            words = shaped.words
            operators.ban_words(logits, words.rows, words.slots, words.position, words.words, self.recent)
        if shaped.added is not None:
            operators.add_to_logits(logits, shaped.added.rows, shaped.added.tokens, shaped.added.values)
        if shaped.penalties is not None:
            assert self.counts is not None
            penalties = shaped.penalties
            operators.penalize(
                logits,
                penalties.rows,
                penalties.slots,
                self.counts,
                penalties.repetition,
                penalties.frequency,
                penalties.presence,
            )

    def add(self, shaped: ShapedRows, tokens: Tensor) -> None:
        """`tokens`, int64 [num_sampling], were drawn."""
        if shaped.penalties is not None:
            assert self.counts is not None
            self.counts[shaped.penalties.slots, tokens[shaped.penalties.rows]] += 1  # no slot comes twice
        if shaped.words is not None:
            assert self.recent is not None
            words = shaped.words
            self.recent[words.kept_slots, words.kept_places] = tokens[words.kept_rows].int()

    def _table(self, width: int) -> Tensor:
        if self._device.type != "cpu":
            return torch.zeros((self._num_slots, width), dtype=torch.int32, device=self._device)
        # Memory that reads as zero and is found when it is first used: few slots ever need their row.
        return torch.from_numpy(np.zeros((self._num_slots, width), np.int32))

    def _counts_of(self, item: Entered) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
        generated = item.tokens[item.num_prompt_tokens :]
        counts = np.bincount(generated, minlength=self._vocab_size).astype(np.int32)
        counts[item.tokens[: item.num_prompt_tokens]] |= IN_PROMPT
        return counts

    def _on_device(self, row: "np.ndarray[tuple[int], np.dtype[np.int32]]") -> Tensor:
        tensor = torch.from_numpy(row)
        # From other memory than pinned a copy would wait for all that the stream still has to do.
        return (
            tensor if self._device.type == "cpu" else tensor.pin_memory().to(self._device, non_blocking=True)
        )


def _recent_of(item: Entered) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    recent = np.full(WINDOW, -1, np.int32)
    first = max(item.num_prompt_tokens, len(item.tokens) - WINDOW)
    recent[np.arange(first, len(item.tokens)) % WINDOW] = item.tokens[first:]
    return recent
