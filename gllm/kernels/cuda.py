"""The operators for CUDA, in Triton: what `dispatch.py` offers under "cuda". Shapes: see `reference.py`."""

from torch import Tensor

from gllm.kernels import attention_work
from gllm.kernels.activation import silu_mul
from gllm.kernels.attention import paged_attention
from gllm.kernels.experts import mix_experts
from gllm.kernels.few_rows import Linear
from gllm.kernels.formats import PLAIN as FORMATS
from gllm.kernels.head_norm import norm_heads
from gllm.kernels.linear import PlainGatedLinear
from gllm.kernels.logits import add_to_logits, apply_masks, ban_words, penalize
from gllm.kernels.logprobs import logprobs
from gllm.kernels.norm import add_rms_norm, rms_norm
from gllm.kernels.rotary import rotary_write
from gllm.kernels.sampling import greedy, sample

__all__ = [
    "FORMATS",
    "add_rms_norm",
    "add_to_logits",
    "apply_masks",
    "ban_words",
    "gated_linear",
    "greedy",
    "group_rows",
    "linear",
    "logprobs",
    "mix_experts",
    "norm_heads",
    "paged_attention",
    "penalize",
    "recorder",
    "rms_norm",
    "rotary_write",
    "sample",
    "silu_mul",
]

recorder = None  # the device has graphs


def linear(weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> Linear:
    """See `reference.linear`: a weight with scales is widened here, once."""
    return Linear(weight if scale is None else weight * scale[:, None], bias)


def gated_linear(weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> PlainGatedLinear:
    return PlainGatedLinear(linear(weight, bias, scale), silu_mul)


def group_rows(
    page_table: Tensor,
    num_computed: Tensor,
    query_start: Tensor,
    page_size: int,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
) -> attention_work.Work:
    """The work lists of attention, on the host; they do not depend on the pages."""
    del page_table, page_size
    return attention_work.group_rows(
        num_computed, query_start, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim
    )
