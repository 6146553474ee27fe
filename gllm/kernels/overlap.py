"""Kernels that begin while the one before them still runs: programmatic dependent launch, from sm_90 on.

A kernel that is launched with `launch_pdl=overlaps()` may start as soon as every program of the kernel
before it has called `let_next_begin` or ended. Until `wait_for_kernel_before` returns it may read only what
no kernel of the step writes (weights, work lists) and must write nothing; behind it, everything that was
launched earlier has ended. Each such kernel waits in every program, even one that has nothing to do: who
comes next relies on it. A kernel without these calls, torch's for example, neither begins early nor lets
the next one do so.
"""

from functools import cache

import triton
import triton.language as tl
from triton.language.extra import cuda

FIRST_ARCHITECTURE = 90


def overlaps() -> bool:
    """Whether the current device can do it; the interpreter cannot."""
    return not triton.knobs.runtime.interpret and _can(triton.runtime.driver.active)


@cache
def _can(driver: object) -> bool:
    """Once a driver: to ask takes longer than a launch should."""
    return int(driver.get_current_target().arch) >= FIRST_ARCHITECTURE  # type: ignore[attr-defined]


@triton.jit
def let_next_begin(OVERLAP: tl.constexpr):
    if OVERLAP:
        cuda.gdc_launch_dependents()


@triton.jit
def wait_for_kernel_before(OVERLAP: tl.constexpr):
    if OVERLAP:
        cuda.gdc_wait()
