"""Chooses the implementation of the operators: a backend is a module with these functions.

Shapes, dtypes and meanings are documented once, in `reference.py` and `reference_logits.py`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from gllm.kernels.formats import Formats
from gllm.kernels.native.library import library

Product = Callable[[Tensor], Tensor]  # [rows, in] -> [rows, out]


class Recorder(Protocol):
    """Of what operators do; see `recording.Recorder`."""

    def record(self, compute: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None] | str]: ...


class Operators(Protocol):
    """What every backend offers.

    recorder: makes a recorder, where calls can be recorded and replayed from the host.
    """

    FORMATS: Formats
    recorder: Callable[[], Recorder] | None

    def linear(self, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> Product: ...

    def gated_linear(
        self, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None
    ) -> Product: ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor: ...

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]: ...

    def silu_mul(self, gate_up: Tensor) -> Tensor: ...

    def norm_heads(
        self, qkv: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float, *, num_heads: int
    ) -> None: ...

    def mix_experts(
        self, x: Tensor, gate_up: Tensor, down: Tensor, chosen: Tensor, weights: Tensor
    ) -> Tensor: ...

    def rotary_write(
        self,
        qkv: Tensor,
        cos: Tensor,
        sin: Tensor,
        k_pages: Tensor,
        v_pages: Tensor,
        locations: Tensor,
        *,
        interleaved: bool,
    ) -> Tensor: ...

    def group_rows(
        self,
        page_table: Tensor,
        num_computed: Tensor,
        query_start: Tensor,
        page_size: int,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
    ) -> Any: ...

    def paged_attention(
        self,
        q: Tensor,
        k_pages: Tensor,
        v_pages: Tensor,
        page_table: Tensor,
        num_computed: Tensor,
        query_start: Tensor,
        *,
        scale: float,
        groups: Any = None,
    ) -> Tensor: ...

    def apply_masks(self, logits: Tensor, rows: Tensor, bits: Tensor) -> None: ...

    def ban_words(
        self, logits: Tensor, rows: Tensor, slots: Tensor, position: Tensor, words: Tensor, recent: Tensor
    ) -> None: ...

    def add_to_logits(self, logits: Tensor, rows: Tensor, tokens: Tensor, values: Tensor) -> None: ...

    def penalize(
        self,
        logits: Tensor,
        rows: Tensor,
        slots: Tensor,
        counts: Tensor,
        repetition: Tensor,
        frequency: Tensor,
        presence: Tensor,
    ) -> None: ...

    def logprobs(self, logits: Tensor, tokens: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor]: ...

    def greedy(self, logits: Tensor) -> Tensor: ...

    def sample(
        self,
        logits: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        seed: Tensor,
        position: Tensor,
        log_min_p: Tensor | None = None,
    ) -> Tensor: ...


BACKENDS = {name: f"gllm.kernels.{name}" for name in ("cpu", "cuda", "reference")}


def operators(backend: str, dtype: torch.dtype) -> Operators:
    """The operators for a device type ("cpu", "cuda") or the oracle ("reference"), by dtype of activations.

    Imported when asked for: those for CUDA need Triton, and the fast ones for a CPU a C compiler.
    """
    if backend not in BACKENDS:
        raise ValueError(f"no kernels for device {backend!r}: choose one of {', '.join(BACKENDS)}")
    module = BACKENDS[backend]
    native = library() if backend == "cpu" else None
    if native is not None and dtype == torch.float32:
        module = "gllm.kernels.cpu_native"
    if native is not None and dtype == torch.bfloat16 and native.gllm_has_matrix_unit():
        module = "gllm.kernels.cpu_bfloat16"
    return cast(Operators, import_module(module))
