"""Triton's kernels run in its interpreter here: that is decided when triton is first imported."""

import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

if "triton" not in sys.modules:
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels run in numpy; products of bfloat16 are right, too.

    Hazard: the interpreter keeps bfloat16 as its bits and, up to 3.7 at least, multiplies these as integers.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.fail(
            "triton was imported before these tests could ask for its interpreter: set TRITON_INTERPRET"
        )
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar == tl.bfloat16:
            return (handle.data.astype(np.uint32) << 16).view(np.float32)
        return handle.data.astype(np.float32)

    def dot(_: Any, a: Any, b: Any, d: Any, *_rest: Any) -> Any:
        return TensorHandle(widened(a) @ widened(b) + d.data, d.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", dot)
    with np.errstate(all="ignore"):  # infinity and NaN are no warnings on a GPU
        yield
