"""Memory for what stays as long as the process, in large pages where the system has them.

A weight of a few megabytes by itself would lie in small pages, and reading it for every token would spend a
tenth of the time on looking up addresses. So weights share large pieces of memory.
"""

import contextlib
import mmap

import torch
from torch import Tensor

PIECE = 64 << 20
ALIGNMENT = 64  # a line of the cache

_piece = torch.empty(0, dtype=torch.uint8)  # what is left of the newest


def mapped(num_bytes: int) -> Tensor:
    """uint8 [num_bytes], zeros, which the system finds when they are first used.

    Private: what is shared with children by default has small pages.
    """
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):  # a system without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


def take(num_bytes: int) -> Tensor:
    """uint8 [num_bytes], zeros, in no other's use. A piece is given back when nobody uses any of it."""
    global _piece
    rounded = -(-num_bytes // ALIGNMENT) * ALIGNMENT
    if rounded > len(_piece):
        _piece = mapped(max(rounded, PIECE))
    taken, _piece = _piece[:num_bytes], _piece[rounded:]
    return taken
