"""Random micro-batches over pages, with everything that must not be read poisoned."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from gllm.kernels import reference

NOWHERE = 1 << 20  # a page that does not exist


@dataclass
class Case:
    """Arguments of `paged_attention`; rows are (tokens before, tokens in the chunk)."""

    q: Tensor
    k_pages: Tensor
    v_pages: Tensor
    page_table: Tensor
    num_computed: Tensor
    query_start: Tensor

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        return self.q, self.k_pages, self.v_pages, self.page_table, self.num_computed, self.query_start

    @property
    def scale(self) -> float:
        return float(self.q.shape[2]) ** -0.5

    def expected(self) -> Tensor:
        """The reference in float32, without the poison."""
        clean = (self.q.float(), self.k_pages.float().nan_to_num(0.0), self.v_pages.float().nan_to_num(0.0))
        return reference.paged_attention(*clean, *self.arguments[3:], scale=self.scale)

    def row(self, index: int) -> "Case":
        """That row alone, over the same pages."""
        start, end = int(self.query_start[index]), int(self.query_start[index + 1])
        only = slice(index, index + 1)
        starts = torch.tensor([0, end - start], dtype=torch.int32)
        tables = self.page_table[only].clone(), self.num_computed[only].clone(), starts
        return Case(self.q[start:end], self.k_pages, self.v_pages, *tables)


def make_case(
    rows: list[tuple[int, int]],
    *,
    heads: tuple[int, int],
    head_dim: int,
    page_size: int,
    dtype: torch.dtype = torch.float16,
    seed: int = 0,
) -> Case:
    """`heads`: of queries, of keys. Queries are a view of a wider tensor, as in a model; pages are in no
    order; slots behind a sequence's last token and unused pages hold NaN."""
    torch.manual_seed(seed)
    num_heads, num_kv_heads = heads
    contexts = [before + count for before, count in rows]
    num_pages = [-(-context // page_size) for context in contexts]
    free = list(range(sum(num_pages) + 2))
    random.Random(seed).shuffle(free)
    shape = (len(free), page_size, num_kv_heads, head_dim)
    k_pages, v_pages = (
        torch.full(shape, float("nan"), dtype=dtype),
        torch.full(shape, float("nan"), dtype=dtype),
    )
    table = torch.full((len(rows), max(num_pages) + 1), NOWHERE, dtype=torch.int32)
    for row, context in enumerate(contexts):
        pages = torch.tensor([free.pop() for _ in range(num_pages[row])])
        table[row, : len(pages)] = pages
        slots = (pages[:, None] * page_size + torch.arange(page_size)).flatten()[:context]
        for cache in (k_pages, v_pages):
            cache.view(-1, num_kv_heads, head_dim)[slots] = torch.randn(context, num_kv_heads, head_dim).to(
                dtype
            )
    starts = torch.tensor([0] + [count for _, count in rows]).cumsum(0).int()
    qkv = torch.randn(int(starts[-1]), num_heads + 2 * num_kv_heads, head_dim).to(dtype)
    before = torch.tensor([before for before, _ in rows], dtype=torch.int32)
    return Case(qkv[:, :num_heads], k_pages, v_pages, table, before, starts)


def random_rows(seed: int, num_rows: int, most: int) -> list[tuple[int, int]]:
    """A mixed batch: about half of the rows decode, some chunks have no prefix."""
    source = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        before = source.choice([0, source.randrange(most), source.randrange(most)])
        rows.append((before, source.choice([1, 1, source.randint(2, 70)])))
    return rows
