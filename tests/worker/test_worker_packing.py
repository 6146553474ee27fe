"""What travels in one piece arrives as it was."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from gllm.worker.packing import ALIGNMENT, Packing, copy_tensors, tensors_of


@dataclass(frozen=True)
class Inner:
    ids: Tensor
    label: str


@dataclass(frozen=True)
class Outer:
    mask: Tensor
    inner: Inner | None
    count: int
    rows: Tensor


def example(rows: int) -> Outer:
    table = torch.arange(6 * rows).int().view(3, 2, rows)[:, :, ::2]
    return Outer(torch.arange(rows) % 2 == 0, Inner(torch.arange(rows) - 3, "x"), 7, table)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_tensors_arrive_with_their_shapes_and_all_else_stays(rows: int) -> None:
    sent = example(rows)
    packing = Packing(sent)
    memory = torch.full((packing.num_bytes,), 99, dtype=torch.uint8)
    packing.write(memory)
    arrived = packing.view(memory)
    assert arrived.count == 7
    assert arrived.inner.label == "x"
    for was, came in zip(tensors_of(sent), tensors_of(arrived), strict=True):
        assert came.dtype == was.dtype
        assert torch.equal(came, was)
        assert (came.data_ptr() - memory.data_ptr()) % ALIGNMENT == 0 or not came.numel()


def test_fields_before_one_that_grew_lie_where_they_lay() -> None:
    few, many = Packing(example(3)), Packing(Outer(example(3).mask, None, 7, torch.arange(900)))
    memory = torch.zeros(many.num_bytes, dtype=torch.uint8)
    assert few.view(memory).mask.data_ptr() == many.view(memory).mask.data_ptr()


def test_values_are_copied_into_what_is_alike() -> None:
    target, source = (
        example(4),
        Outer(torch.zeros(4).bool(), Inner(torch.zeros(4).long(), "y"), 1, example(4).rows),
    )
    copy_tensors(target, source)
    assert not target.mask.any()
    assert target.inner.ids.tolist() == [0] * 4
