"""Decode steps as graphs: what a step launches, recorded once for a number of tokens and replayed since.

A step with fewer tokens is padded up to the next number that has a graph, a bucket. Of a batch, a graph
holds the addresses and the lengths: all that it reads must lie where it lay when it was recorded, which
`Packing` does for fields of equal lengths. Hence whatever the forward pass reads is padded to lengths that
follow from the bucket alone; what sampling reads is not in a graph.

A graph is recorded when its bucket comes up for the second time: the first time runs call by call, which
loads kernels and sets up libraries. Knows nothing of streams, nor of what a forward pass is.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from gllm.worker.batch import Batch

MOST_TOKENS = 512  # of a step that is replayed: longer ones keep the device busy while they are launched


class Capture(Protocol):
    """What graphs need of `stream.Device`."""

    def capture(self, call: Callable[[], None]) -> Callable[[], None]: ...


class Model(Protocol):
    """What is recorded."""

    def logits(self, batch: Batch) -> Tensor: ...


def buckets_for(max_num_seqs: int, fewest_tokens: int = 1) -> tuple[int, ...]:
    """The numbers of tokens that have graphs: close together where few tokens pay for the padding of one.

    fewest_tokens: of any step, see `Platform`.
    """
    most = max(min(max_num_seqs, MOST_TOKENS), fewest_tokens)
    steps = (1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, MOST_TOKENS, 32))
    return (*(step for step in steps if fewest_tokens <= step < most), most)


class DecodeGraphs:
    """The graphs of one model on one device."""

    def __init__(
        self, device: Capture, logits: Tensor, buckets: tuple[int, ...], *, row_splits: int, most_splits: int
    ) -> None:
        """logits: float32 [at least the largest bucket, vocab], where graphs leave theirs.

        row_splits: attention's programs of the longest sequence; most_splits: of all sequences of a step,
        as far as graphs have room for them.
        """
        self._device = device
        self._logits = logits
        self._buckets = buckets
        self._row_splits = row_splits
        self._most_splits = most_splits
        self._address = 0  # of the inputs that the graphs read
        self._seen: set[int] = set()
        self._replays: dict[int, Callable[[], None]] = {}

    def bucket_of(self, batch: Batch) -> int | None:
        """The bucket for `batch`, or None: it has chunks, more tokens or longer contexts than fit, or
        more to be read out than its sampling rows."""
        work, num_tokens = batch.groups, len(batch.token_ids)
        bucket = next((size for size in self._buckets if size >= num_tokens), None)
        if (
            bucket is None
            or batch.prompt_logprobs is not None
            or work.num_tiles
            or work.num_splits > self._num_splits(bucket)
        ):
            return None
        return bucket

    def padded(self, batch: Batch, bucket: int) -> Batch:
        """`batch` with all that its forward pass reads padded to lengths that depend on `bucket` alone."""
        return replace(
            with_tokens_padded(batch, bucket),
            num_computed=_padded(batch.num_computed, bucket),
            query_start=_padded(batch.query_start, bucket + 1),
            groups=batch.groups.padded(self._num_splits(bucket), bucket),
            sampling_tokens=_padded(batch.sampling_tokens, bucket),
        )

    def logits(self, bucket: int, batch: Batch, model: Model) -> Tensor:
        """float32 [bucket, vocab] of a padded batch on the device; the next call overwrites them."""
        if batch.token_ids.data_ptr() != self._address:  # the inputs have moved to where there is more room
            self._address = batch.token_ids.data_ptr()
            self._replays.clear()
        logits = self._logits[:bucket]

        def record() -> None:
            logits.copy_(model.logits(batch))

        if bucket not in self._seen:
            self._seen.add(bucket)
            record()
            return logits
        if bucket not in self._replays:
            self._replays[bucket] = self._device.capture(record)
        self._replays[bucket]()
        return logits

    def _num_splits(self, bucket: int) -> int:
        return min(bucket * self._row_splits, self._most_splits + bucket)


def with_tokens_padded(batch: Batch, num_tokens: int) -> Batch:
    """`batch` with at least so many tokens; nobody's are written nowhere and attend to nothing."""
    length = max(num_tokens, len(batch.token_ids))
    return replace(
        batch,
        token_ids=_padded(batch.token_ids, length),
        positions=_padded(batch.positions, length),
        locations=_padded(batch.locations, length, -1),
        rotary_lengths=None if batch.rotary_lengths is None else _padded(batch.rotary_lengths, length),
    )


def _padded(tensor: Tensor, length: int, value: Any = 0) -> Tensor:
    out = torch.full((length, *tensor.shape[1:]), value, dtype=tensor.dtype)
    out[: len(tensor)] = tensor
    return out
