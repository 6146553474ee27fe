"""The operators for CUDA, in Triton: what `dispatch.py` offers under "cuda". Shapes: see `reference.py`."""

from gllm.kernels.activation import silu_mul
from gllm.kernels.attention import paged_attention
from gllm.kernels.attention_work import group_rows
from gllm.kernels.norm import add_rms_norm, rms_norm
from gllm.kernels.rotary import rotary_write
from gllm.kernels.sampling import greedy, sample

__all__ = [
    "add_rms_norm",
    "greedy",
    "group_rows",
    "paged_attention",
    "rms_norm",
    "rotary_write",
    "sample",
    "silu_mul",
]
