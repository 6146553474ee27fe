"""Weights on their way to a device that lags behind."""

import pytest
import torch
from late_device import LateDevice

from gllm.worker.staging import Staging


@pytest.mark.parametrize("seed", range(10))
def test_tensors_of_every_size_and_dtype_arrive_whole(seed: int) -> None:
    device = LateDevice(seed)
    staging = Staging(device, piece_bytes=64)
    draw = torch.Generator().manual_seed(seed)
    sources = [
        torch.randn(*shape, generator=draw).to(dtype)
        for shape, dtype in (
            ((3, 5), torch.float32), ((40,), torch.bfloat16), ((7, 33), torch.float16), ((1,), torch.float32),
        )
    ]  # fmt: skip
    targets = [torch.full(source.shape, float("nan"), dtype=torch.bfloat16) for source in sources]
    for target, source in zip(targets, sources, strict=True):
        staging.copy(target, source)
        device.work(device.source.randrange(4))
    staging.finish()
    for target, source in zip(targets, sources, strict=True):
        assert torch.equal(target, source.bfloat16())


def test_a_missing_wait_would_be_noticed() -> None:
    wrong = 0
    for seed in range(20):
        staging = Staging(LateDevice(seed, ignores_host_waits=True), piece_bytes=64)
        source, target = torch.arange(400).float(), torch.zeros(400)
        staging.copy(target, source)
        staging.finish()
        wrong += not torch.equal(target, source)
    assert wrong
