"""Attention over paged keys and values for a CPU: torch calls over whole groups of rows.

Rows of one token are padded to each other in groups of similar length; a row of several tokens attends by
itself, in blocks of queries. Shapes and meanings are documented in `reference.py`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

GATHER_TOKENS = 1024  # tokens gathered at once: what fits the cache is read back from it
QUERY_BLOCK = 256  # queries of a chunk that attend at once: bounds the mask
FEW_PAGES = 8  # contexts up to this are padded to each other freely


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows of one token each, with contexts of similar length, padded to the longest of them."""

    tokens: Tensor | None  # int64 [rows], where their queries are; None: all queries, in order
    pages: Tensor  # int64 [rows * pages of the longest]
    mask: Tensor  # float32 [rows, 1, 1, tokens of the longest]: 0, or -inf beyond a row's context


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A row of several tokens: queries [start, end), of which the first comes behind `before` tokens."""

    start: int
    end: int
    before: int
    pages: Tensor  # int64 [pages of its context]


@dataclass(frozen=True, slots=True)
class Groups:
    """The rows of a micro-batch, arranged for attention; the same for every layer."""

    decodes: list[DecodeGroup]
    chunks: list[ChunkRow]


def group_rows(
    page_table: Tensor,
    num_computed: Tensor,
    query_start: Tensor,
    page_size: int,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> Groups:
    """Arrange the rows; the tables are as `paged_attention` takes them. Hazard: none of its tensors may
    be changed while the groups are in use."""
    del num_heads, num_kv_heads, head_dim
    table, before, starts = page_table.numpy(), num_computed.numpy(), query_start.numpy()
    single = np.diff(starts) == 1
    decode_rows = np.flatnonzero(single)
    chunks = []
    for row in np.flatnonzero(~single):
        start, end, computed = int(starts[row]), int(starts[row + 1]), int(before[row])
        pages = table[row, : -(-(computed + end - start) // page_size)]
        chunks.append(ChunkRow(start, end, computed, torch.from_numpy(pages.astype(np.int64))))
    groups = []
    if len(decode_rows):
        contexts = before[decode_rows] + 1
        num_pages = -(-contexts // page_size)
        for members in _similar(num_pages, max(1, GATHER_TOKENS // page_size)):
            rows, context = decode_rows[members], contexts[members]
            longest = int(num_pages[members].max())
            beyond = np.arange(longest * page_size) >= context[:, None]
            mask = np.where(beyond, np.float32("-inf"), np.float32(0.0))[:, None, None]
            # A page beyond a row's own is page 0 or a stale number: masked, but it must exist.
            pages = np.where(np.arange(longest) < num_pages[members][:, None], table[rows, :longest], 0)
            alone = len(rows) == len(starts) - 1
            tokens = None if alone else torch.from_numpy(starts[rows].astype(np.int64))
            flat = torch.from_numpy(pages.astype(np.int64).reshape(-1))
            groups.append(DecodeGroup(tokens, flat, torch.from_numpy(mask)))
    return Groups(groups, chunks)


def _similar(num_pages: npt.NDArray[np.int32], most: int) -> list[npt.NDArray[np.int64]]:
    """Members of each group: no row is padded to more than twice its pages (few pages aside), and no group
    gathers more than `most` pages if it has several rows."""
    if num_pages.max() * len(num_pages) <= most and num_pages.max() <= max(FEW_PAGES, 2 * num_pages.min()):
        return [np.arange(len(num_pages))]
    order = np.argsort(num_pages, kind="stable")
    ordered = num_pages[order]
    groups, start = [], 0
    while start < len(order):
        end = int(np.searchsorted(ordered, max(FEW_PAGES, 2 * ordered[start]), "right"))
        end = min(end, start + max(1, most // int(ordered[end - 1])))
        groups.append(np.sort(order[start:end]))
        start = end
    return groups


def paged_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    page_table: Tensor,
    num_computed: Tensor,
    query_start: Tensor,
    *,
    scale: float,
    groups: Groups | None = None,
) -> Tensor:
    num_pages, page_size, num_kv_heads, head_dim = k_pages.shape
    if groups is None:
        heads = {"num_heads": q.shape[1], "num_kv_heads": num_kv_heads, "head_dim": head_dim}
        groups = group_rows(page_table, num_computed, query_start, page_size, **heads)
    shared = q.shape[1] // num_kv_heads  # query heads a key head
    k_flat, v_flat = k_pages.view(num_pages, -1), v_pages.view(num_pages, -1)
    out = q.new_empty(q.shape)
    for group in groups.decodes:
        rows = len(group.mask)
        # [rows, kv heads, tokens, head_dim] views of gathered pages: the kernel takes any strides.
        k = k_flat.index_select(0, group.pages).view(rows, -1, num_kv_heads, head_dim).transpose(1, 2)
        v = v_flat.index_select(0, group.pages).view(rows, -1, num_kv_heads, head_dim).transpose(1, 2)
        queries = q if group.tokens is None else q.index_select(0, group.tokens)
        # Query heads that share a key head stand where a longer query would: no key is repeated.
        grouped = queries.reshape(rows, num_kv_heads, shared, head_dim)
        result = F.scaled_dot_product_attention(grouped, k, v, attn_mask=group.mask, scale=scale)
        result = result.reshape(rows, -1, head_dim)
        if group.tokens is None:
            return result
        out.index_copy_(0, group.tokens, result)
    for chunk in groups.chunks:
        context = chunk.before + chunk.end - chunk.start
        k = (
            k_flat.index_select(0, chunk.pages)
            .view(-1, num_kv_heads, 1, head_dim)[:context]
            .permute(1, 2, 0, 3)
        )
        v = (
            v_flat.index_select(0, chunk.pages)
            .view(-1, num_kv_heads, 1, head_dim)[:context]
            .permute(1, 2, 0, 3)
        )
        for start in range(chunk.start, chunk.end, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, chunk.end)
            reach = chunk.before + end - chunk.start  # the block's last query sees this many tokens
            mask = torch.full((end - start, reach), float("-inf")).triu_(reach - (end - start) + 1)
            queries = q[start:end].view(end - start, num_kv_heads, shared, head_dim).permute(1, 2, 0, 3)
            size = (num_kv_heads, shared, reach, head_dim)
            result = F.scaled_dot_product_attention(
                queries,
                k[:, :, :reach].expand(size),
                v[:, :, :reach].expand(size),
                attn_mask=mask,
                scale=scale,
            )
            out[start:end] = result.permute(2, 0, 1, 3).reshape(end - start, -1, head_dim)
    return out
