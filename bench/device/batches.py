"""Random micro-batches over a pool of pages on the device, in no order, as after hours of serving."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gllm.kernels.attention_work import Work, group_rows


@dataclass(frozen=True, slots=True)
class Heads:
    """The attention of a model."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.num_heads}/{self.num_kv_heads}x{self.head_dim} page {self.page_size} {dtype}"

    @property
    def token_bytes(self) -> int:
        """Of a token's keys and values in one layer."""
        return 2 * self.num_kv_heads * self.head_dim * self.dtype.itemsize

    def work(self, rows: list[tuple[int, int]]) -> Work:
        """The work lists of rows (tokens before, tokens in the chunk), on the host."""
        before, starts = tables(rows)
        heads = {"num_heads": self.num_heads, "num_kv_heads": self.num_kv_heads, "head_dim": self.head_dim}
        return group_rows(before, starts, **heads)


class Pool:
    """Pages of random keys and values, given out in random order until none is left."""

    def __init__(self, heads: Heads, num_tokens: int, device: torch.device) -> None:
        self.heads, self.device = heads, device
        self.num_pages = -(-num_tokens // heads.page_size)
        shape = (self.num_pages, heads.page_size, heads.num_kv_heads, heads.head_dim)
        self.k_pages = torch.empty(shape, dtype=heads.dtype, device=device).normal_()
        self.v_pages = torch.empty(shape, dtype=heads.dtype, device=device).normal_()
        self.recycle()

    def recycle(self) -> None:
        """All pages are free again, in a new order."""
        self._free = torch.randperm(self.num_pages, device=self.device).int()

    def page_table(self, rows: list[tuple[int, int]]) -> Tensor:
        """int32 [rows, most pages of a row], on the device; entries behind a row's own are garbage."""
        needed = [-(-(before + count) // self.heads.page_size) for before, count in rows]
        table = torch.full((len(rows), max(needed)), 1 << 28, dtype=torch.int32, device=self.device)
        if sum(needed) > len(self._free):
            raise ValueError(f"{sum(needed)} pages are asked for, but the pool has {len(self._free)} left")
        for row, count in enumerate(needed):
            table[row, :count], self._free = self._free[:count], self._free[count:]
        return table

    def queries(self, rows: list[tuple[int, int]]) -> Tensor:
        """[num_tokens, num_heads, head_dim], a view of queries, keys and values, as in a model."""
        heads = self.heads
        shape = (sum(count for _, count in rows), heads.num_heads + 2 * heads.num_kv_heads, heads.head_dim)
        qkv = torch.empty(shape, dtype=heads.dtype, device=self.device).normal_()
        return qkv[:, : heads.num_heads]

    def poison(self, page_table: Tensor, rows: list[tuple[int, int]]) -> None:
        """NaN into every slot that no row may read."""
        used = torch.zeros(self.num_pages * self.heads.page_size, dtype=torch.bool, device=self.device)
        for row, (before, count) in enumerate(rows):
            position = torch.arange(before + count, device=self.device)
            page = page_table[row, position // self.heads.page_size].long()
            used[page * self.heads.page_size + position % self.heads.page_size] = True
        for pages in (self.k_pages, self.v_pages):
            pages.view(len(used), -1)[~used] = float("nan")


def tables(rows: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """num_computed and query_start of rows, on the host."""
    starts = torch.tensor([0] + [count for _, count in rows]).cumsum(0).int()
    return torch.tensor([before for before, _ in rows], dtype=torch.int32), starts
