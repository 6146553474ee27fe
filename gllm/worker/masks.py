"""The masks of a plan's constrained rows, on their way to the logits.

Knows their form on the wire; nothing of grammars.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gllm.protocol.messages import StepPlan, mask_bytes
from gllm.worker.slots import PlanError


@dataclass(frozen=True, slots=True)
class Masks:
    """Which tokens some of the sampling rows may become.

    rows: int64 [num_masked], among the sampling rows. bits: int32 [num_masked, ceil(vocab / 32)], of
    which bit i % 32 of word i // 32 is 1 where token i is allowed.
    """

    rows: Tensor
    bits: Tensor


def masks_of(plan: StepPlan, sampling: npt.NDArray[np.bool_], vocab_size: int) -> Masks | None:
    """The masks of `plan`, None where it has none; raises `PlanError`.

    sampling: whether each row of the plan yields a token.
    """
    if not plan.masked_rows:
        return None
    rows = np.frombuffer(plan.masked_rows, np.int32)
    if rows.max() >= len(sampling) or not sampling[rows].all() or np.bincount(rows).max() > 1:
        raise PlanError("the plan has a mask for a row that is not there or yields no token, or two for one")
    if len(plan.masks) != len(rows) * mask_bytes(vocab_size):
        raise PlanError(
            f"the plan has {len(plan.masks)} bytes of masks for {len(rows)} rows, but one for "
            f"{vocab_size} tokens takes {mask_bytes(vocab_size)}"
        )
    # A copy: the message's bytes are read-only, which tensors do not know.
    bits = np.frombuffer(plan.masks, "<i4").astype(np.int32).reshape(len(rows), -1)
    place = np.cumsum(sampling) - 1
    return Masks(torch.from_numpy(place[rows].astype(np.int64)), torch.from_numpy(bits))
