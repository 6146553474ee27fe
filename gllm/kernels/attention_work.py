"""Work lists of attention: which program does what, made once a step on the host.

One int32 table [entries, 4], four kinds of entries behind one another:

    header   (num_splits, 0, 0, 0)                         one, for the device: a graph replays other numbers
    splits   (token, row, first key, end of keys)          num_splits: a query against up to split_tokens keys
    decodes  (token, first split, number of splits, 0)     num_decodes: whose splits are to be merged
    tiles    (first token, number of tokens, row, before)  num_tiles: neighbouring queries of a chunk

`token` counts the queries of the micro-batch, `row` the rows of the page table, `before` is what the
sequence had computed before the tile's first token. Entries of zeros pad a list and do nothing. Knows
nothing of how the entries are worked off.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gllm.kernels.tuning import SHORT_CHUNK, DecodeTiling, PrefillTiling, attention_tilings

Ints = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Work:
    """The rows of a micro-batch, cut into programs; the same for every layer."""

    table: Tensor  # int32 [1 + num_splits + num_decodes + num_tiles, 4], where the queries are
    num_splits: int
    num_decodes: int
    num_tiles: int
    decode: DecodeTiling
    prefill: PrefillTiling
    is_padded: bool = False

    def to(self, device: torch.device) -> "Work":
        """The same work, its table on `device`: one copy a step, asynchronous from pinned memory."""
        return replace(self, table=self.table.to(device, non_blocking=True))

    def of_table_rows(self, table_rows: Ints) -> "Work":
        """The same work on a page table in which row i of the micro-batch is row table_rows[i]."""
        table = self.table.numpy().copy()
        first_tile = 1 + self.num_splits + self.num_decodes
        for entries, column in ((table[1 : 1 + self.num_splits], 1), (table[first_tile:], 2)):
            entries[:, column] = table_rows[entries[:, column]]
        return replace(self, table=torch.from_numpy(table))

    def padded(self, num_splits: int, num_decodes: int) -> "Work":
        """The same decodes with lists of the given lengths: what a graph for so many can replay."""
        if self.num_tiles or self.num_splits > num_splits or self.num_decodes > num_decodes:
            raise ValueError(
                f"{self.num_decodes} decodes with {self.num_splits} splits and {self.num_tiles} tiles do "
                f"not fit a graph of {num_decodes} decodes with {num_splits} splits: run this step without"
            )
        table = self.table.new_zeros((1 + num_splits + num_decodes, 4))
        decodes = 1 + self.num_splits
        table[:decodes] = self.table[:decodes]
        table[1 + num_splits : 1 + num_splits + self.num_decodes] = self.table[decodes:]
        return replace(self, table=table, num_splits=num_splits, num_decodes=num_decodes, is_padded=True)


def group_rows(
    num_computed: Tensor, query_start: Tensor, *, num_heads: int, num_kv_heads: int, head_dim: int
) -> Work:
    """Cut the rows of a micro-batch, in any order. The tables, on the host, are as `paged_attention`'s;
    the result depends on each row alone, but for the order of the tiles."""
    decode, prefill = attention_tilings(head_dim, num_heads // num_kv_heads)
    starts, before = query_start.numpy(), num_computed.numpy()
    counts = starts[1:] - starts[:-1]
    is_short = counts <= SHORT_CHUNK

    row, index = _spread(is_short.nonzero()[0], counts[is_short])  # each token of a short chunk by itself
    token, context = starts[row] + index, before[row] + index + 1
    num_splits = -(-context // decode.split_tokens)
    decode_of, split = _spread(np.arange(len(token)), num_splits)
    tiles = _tiles(
        (~is_short).nonzero()[0], before, starts, counts, prefill.block_m * num_kv_heads // num_heads
    )

    table = np.zeros((1 + len(split) + len(token) + len(tiles), 4), np.int32)
    table[0, 0] = len(split)
    splits = table[1 : 1 + len(split)]
    # Nearly equal ones, in whole blocks: programs that share a list in turn end together.
    size = -(-context // (num_splits * decode.block_n)) * decode.block_n
    splits[:, 0], splits[:, 1], splits[:, 2] = token[decode_of], row[decode_of], split * size[decode_of]
    splits[:, 3] = np.minimum(splits[:, 2] + size[decode_of], context[decode_of])
    decodes = table[1 + len(split) : 1 + len(split) + len(token)]
    decodes[:, 0], decodes[:, 1], decodes[:, 2] = token, num_splits.cumsum() - num_splits, num_splits
    table[1 + len(split) + len(token) :] = tiles
    return Work(torch.from_numpy(table), len(split), len(token), len(tiles), decode, prefill)


def _tiles(rows: Ints, before: Ints, starts: Ints, counts: Ints, tile_tokens: int) -> Ints:
    """The chunks of these rows in tiles, those with most keys first: short ones fill the gaps at the end."""
    if not len(rows):
        return np.empty((0, 4), np.int64)
    row, index = _spread(rows, -(-counts[rows] // tile_tokens))
    skipped = index * tile_tokens
    tokens = np.minimum(counts[row] - skipped, tile_tokens)
    tiles = np.stack((starts[row] + skipped, tokens, row, before[row] + skipped), 1)
    return tiles[np.argsort(-(tiles[:, 1] + tiles[:, 3]), kind="stable")]


def _spread(values: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Each value as often as its count says, and a number that counts up from 0 along each."""
    first = counts.cumsum() - counts
    spread = values.repeat(counts)
    return spread, np.arange(len(spread)) - first.repeat(counts)
