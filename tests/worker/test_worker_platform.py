"""What a worker takes from its kind of device, where nobody says otherwise."""

import json
from pathlib import Path

import pytest
import tiny_checkpoint
import torch

from gllm.checkpoint import open_checkpoint
from gllm.config.schema import PAGE_SIZES
from gllm.worker.look_through import choose_dtype, look_through
from gllm.worker.options import WorkerOptions
from gllm.worker.platform import Cpu, Gpu, PlatformError, platform_of


class GpuInName(Gpu):
    """A GPU that nobody looks for."""

    def __init__(self) -> None:
        pass


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("without_gpu")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_a_sentence() -> None:
    assert isinstance(platform_of("auto"), Cpu)
    with pytest.raises(PlatformError, match="device is cuda, but torch finds no GPU: set device to cpu"):
        platform_of("cuda")


def test_a_gpu_that_is_too_old_is_refused_by_name_and_auto_passes_it_by(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(PlatformError, match=r"Tesla T4 has compute capability 7\.5 and .* need 8\.0"):
        platform_of("cuda")
    assert isinstance(platform_of("auto"), Cpu)
    assert "computing on the CPU" in caplog.text


@pytest.mark.parametrize(
    ("stored", "on_gpu"),
    [(torch.float16, torch.float16), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16)],
)
def test_a_gpu_computes_in_the_stored_dtype_and_a_cpu_in_float32(
    tmp_path: Path, stored: torch.dtype, on_gpu: torch.dtype
) -> None:
    path = tiny_checkpoint.write(tmp_path, weights=tiny_checkpoint.tensors(dtype=stored))
    checkpoint = open_checkpoint(path)
    assert choose_dtype("auto", checkpoint, GpuInName()) == on_gpu
    assert choose_dtype("auto", checkpoint, Cpu()) == torch.float32
    assert choose_dtype("float16", checkpoint, Cpu()) == torch.float16


def test_without_weights_the_dtype_is_what_the_configuration_names(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_checkpoint.CONFIG | {"torch_dtype": "float16"}))
    checkpoint = open_checkpoint(tmp_path, weights=False)
    assert choose_dtype("auto", checkpoint, GpuInName()) == torch.float16


def test_a_dtype_that_the_kernels_lack_is_refused(tmp_path: Path) -> None:
    options = WorkerOptions(tiny_checkpoint.write(tmp_path), dtype="float32")
    with pytest.raises(PlatformError, match="dtype is float32, but cuda computes in bfloat16 or float16"):
        look_through(options, GpuInName())


def test_page_sizes_are_those_that_the_configuration_assumes() -> None:
    assert {"cpu": Cpu.page_size, "cuda": Gpu.page_size} == PAGE_SIZES
