"""Paged attention for CUDA: one call serves a mixed batch, decodes by split keys, chunks by tiles of queries.

Shapes and meanings are documented in `reference.py`. Nothing here waits for the device: the work lists
say on the host how many programs there are, on the device what each does.
"""

import math

from torch import Tensor

from gllm.kernels.attention_decode import decode_attention
from gllm.kernels.attention_prefill import prefill_attention
from gllm.kernels.attention_work import Work, group_rows


def paged_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    page_table: Tensor,
    num_computed: Tensor,
    query_start: Tensor,
    *,
    scale: float,
    groups: Work | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """See `reference.paged_attention`; bfloat16 or float16, head_dim up to 256.

    groups: `group_rows` of the same rows, on the device; without it the host waits for the tables,
    which are not read otherwise. out: [num_tokens, num_heads, head_dim], contiguous; tokens that no
    work names (they pad a graph) keep what they held.
    """
    num_heads, head_dim = q.shape[1:]
    num_kv_heads = k_pages.shape[2]
    out = q.new_empty(q.shape) if out is None else out
    adjacent = q.stride()[1:] == (head_dim, 1) and page_table.stride(1) == 1
    if not (adjacent and k_pages.is_contiguous() and v_pages.is_contiguous() and out.is_contiguous()):
        raise ValueError("attention takes contiguous tensors; only queries and rows of pages may lie apart")
    if groups is None:
        groups = group_rows(
            num_computed.cpu(), query_start.cpu(),
            num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim,
        ).to(q.device)  # fmt: skip
    log2_scale = scale * math.log2(math.e)
    if groups.num_decodes:
        decode_attention(q, k_pages, v_pages, page_table, groups, log2_scale, out)
    if groups.num_tiles:
        prefill_attention(q, k_pages, v_pages, page_table, groups, log2_scale, out)
    return out
